"""Writes a comparison down: report.json and report.csv for programs, report.html for people.

The page needs no other file, and the same comparison gives the same bytes. slow_vs_fast.py
measures, and page.py makes the page.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from faststyle.compare.page import report_html, require_packages
from faststyle.compare.results import Comparison, plain
from faststyle.errors import OutputError
from faststyle.files import check_place, write_bytes

JSON = "report.json"
CSV = "report.csv"
HTML = "report.html"
COLUMNS = [
    *("method", "checkpoint", "photo", "size", "init", "step"),
    *("content_rel", "style_rel", "total", "seconds"),
]


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write report.json, report.csv and report.html into `folder`, each whole or not at all.

    The measurements come first, so that they are kept where the page cannot be made. Raises:
    OutputError when `folder` cannot be written to, DeviceError when packages of the extra
    "compare" are missing.
    """
    data = json.dumps(report_json(comparison), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    # Encoded here: names of files may hold bytes that are not UTF-8.
    write_bytes(folder / JSON, _encode(data))
    write_bytes(folder / CSV, _encode(report_csv(comparison)))
    write_bytes(folder / HTML, _encode(report_html(comparison)))


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Check that `folder` can take a report, before hours are spent on measuring.

    A report that is there is in the way, unless `overwrite`. Raises: OutputError, DeviceError when
    packages are missing.
    """
    there = next((name for name in (HTML, JSON, CSV) if os.path.exists(folder / name)), None)
    if there and not overwrite:
        raise OutputError(
            f"{folder / there} is there already: replace it with `overwrite`, "
            "or choose another `output`"
        )
    if os.path.isfile(folder):
        raise OutputError(f"`output` {folder}: a file, where a folder for the report is expected")
    check_place(folder / HTML)
    require_packages()


def report_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything but the pictures, for strict JSON: numbers that are not finite are None."""
    return {
        "about": plain(comparison.about),
        "checkpoints": plain(comparison.checkpoints),
        "summaries": plain(comparison.summaries),
        "fast": plain(comparison.fast),
        "refined": plain(comparison.refined),
        "slow": plain(comparison.slow),
    }


def report_csv(comparison: Comparison) -> str:
    """Return a table with a line for each measurement.

    A value that does not apply, or is not finite, is empty.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({"method": "fast", **plain(row)} for row in comparison.fast)
    writer.writerows({"method": "refined", **plain(row)} for row in comparison.refined)
    for checkpoint, rows in comparison.slow.items():
        writer.writerows({"method": "slow", "checkpoint": checkpoint, **plain(row)} for row in rows)
    return buffer.getvalue()


def _encode(text: str) -> bytes:
    # Names of files that are not UTF-8 reach Python as lone surrogates, which UTF-8 cannot hold.
    return text.encode("utf-8", "backslashreplace")
