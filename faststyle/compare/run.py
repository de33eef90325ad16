"""`faststyle compare`: checks the folder, compares, and writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faststyle.compare import slow_vs_fast
from faststyle.compare.report import check_folder, write_report
from faststyle.compare.results import INITS, Comparison
from faststyle.compare.words import answer


def run_comparison(
    painting: str | Path,
    checkpoints: Sequence[str | Path],
    photos: str | Path,
    folder: Path,
    *,
    overwrite: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare networks with the slow path, write the report into `folder`, and return the results.

    `settings` are the keyword arguments of `slow_vs_fast.compare`. The folder is checked before
    anything is measured; a report that is there is only replaced with `overwrite`. Raises: the
    errors of `compare`, OutputError.
    """
    check_folder(folder, overwrite)
    comparison = slow_vs_fast.compare(painting, checkpoints, photos, **settings)
    write_report(comparison, folder)
    return comparison


def answers(comparison: Comparison) -> list[str]:
    """Return the result in sentences, for each checkpoint and size."""
    optimizer = str(comparison.about["optimizer"])
    last_step = dict.fromkeys(INITS, int(comparison.about["steps"]))
    return [
        sentence
        for summary in comparison.summaries
        for sentence in answer(summary, optimizer, last_step)
    ]
