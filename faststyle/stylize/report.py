"""The report of a collection: one JSON file with pictures, speed and failures of all processes.

Each process writes a part beside the file: report.0-of-2.json beside report.json. Then it joins the
parts that are there, so the process that ends last writes the whole. Nobody waits for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from faststyle.errors import FaststyleError
from faststyle.files import check_place, write_bytes
from faststyle.stylize.batch import Report
from faststyle.stylize.processes import Process

COUNTS = ("pictures", "videos", "kept")


class Record:
    """What one process has done, and how long that took."""

    def __init__(self) -> None:
        self.report = Report()
        self.videos = 0
        self.engine = ""
        self.workers: list[dict[str, Any]] = []  # of Ray: name, items, networks loaded
        self._started = time.monotonic()
        self._loading = 0.0

    def loaded(self, engine: str) -> None:
        """Note that the network is loaded. The seconds before do not count as work."""
        self.engine = engine
        self._loading = time.monotonic() - self._started

    def numbers(self, process: Process, error: str | None) -> dict[str, Any]:
        """Return the part of the report of this process."""
        seconds = time.monotonic() - self._started - self._loading
        done = self.report.pictures + self.videos
        return {
            "process": process.rank,
            "pictures": self.report.pictures,
            "videos": self.videos,
            "kept": self.report.pictures_kept,
            "seconds_loading": round(self._loading, 3),
            "seconds": round(seconds, 3),
            "files_per_second": _rate(done, seconds),
            "engine": self.engine,
            **({"workers": self.workers} if self.workers else {}),
            "ended_by": error,
            "failures": [{"file": name, "reason": why} for name, why in self.report.failed],
        }


@contextmanager
def recorded(file: Path | None, process: Process) -> Iterator[Record]:
    """Yield the record of this process, and write the report when the block ends, however it does.

    A process that is killed leaves no part, and the report says that it is not complete. Raises:
    OutputError, before the work too, for a place that cannot be written to.
    """
    part = _part(file, process.rank, process.count) if file else None
    if file and part:
        check_place(file)
        with suppress(FileNotFoundError):  # it would be one of an earlier run
            part.unlink()
    record = Record()
    error: str | None = None
    try:
        yield record
    except FaststyleError as caught:
        error = str(caught)
        raise
    except BaseException as caught:
        error = type(caught).__name__
        raise
    finally:
        if file and part:
            numbers = record.numbers(process, error)
            if process.count == 1:
                _write(file, join([numbers], 1))
            else:
                _write(part, numbers)
                _join_parts(file, process)


def join(parts: list[dict[str, Any]], processes: int) -> dict[str, Any]:
    """Return the report of all processes, from the parts of those that have ended.

    They work at the same time: the seconds of all are those of the slowest.
    """
    seconds = max(part["seconds"] for part in parts)
    totals = {key: sum(part[key] for part in parts) for key in COUNTS}
    failures = [failure for part in parts for failure in part["failures"]]
    ended = {part["process"] for part in parts}
    return {
        **totals,
        "failed": len(failures),
        "seconds": seconds,
        "files_per_second": _rate(totals["pictures"] + totals["videos"], seconds),
        "complete": len(ended) == processes and not any(part["ended_by"] for part in parts),
        "processes": processes,
        "processes_missing": sorted(set(range(processes)) - ended),
        "failures": failures,
        "by_process": [
            {key: value for key, value in part.items() if key != "failures"}
            | {"failed": len(part["failures"])}
            for part in parts
        ],
    }


def _join_parts(file: Path, process: Process) -> None:
    """Write the report from the parts that are there."""
    # Another process may join fewer parts at the same time, and write after this one. Whoever
    # writes looks again. So the last to write has seen all the parts that were there.
    joined = None
    while joined != (parts := _read_parts(file, process.count)):
        # Under a name of its own first: processes of two machines may have the same number.
        own = file.with_name(f".{file.stem}.{process.rank}-of-{process.count}.json")
        _write(own, join(parts, process.count))
        own.replace(file)
        joined = parts


def _read_parts(file: Path, processes: int) -> list[dict[str, Any]]:
    parts = []
    for rank in range(processes):
        with suppress(FileNotFoundError):
            parts.append(json.loads(_part(file, rank, processes).read_text(encoding="utf-8")))
    return parts


def _part(file: Path, rank: int, processes: int) -> Path:
    return file.with_name(f"{file.stem}.{rank}-of-{processes}.json")


def _write(file: Path, content: dict[str, Any]) -> None:
    # Names of files may hold bytes that are no text; JSON spells them out.
    write_bytes(file, (json.dumps(content, indent=2) + "\n").encode())


def _rate(done: int, seconds: float) -> float:
    return round(done / seconds, 3) if done and seconds > 0 else 0.0
