"""Painting jobs for tests, as `faststyle stylize` does in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from faststyle.stylize.batch import Job, Report
from faststyle.stylize.collection import Item, Task, run_items
from faststyle.stylize.stylizer import Stylizer


def run_jobs(
    stylizer: Stylizer,
    jobs: Sequence[Job],
    *,
    keep: bool = False,
    done: Callable[[Item], None] = lambda item: None,
    **options: Any,
) -> Report:
    """Paint all jobs with a stylizer that is loaded already; `options` are fields of `Task`."""
    report = Report()
    run_items(Task((), keep=keep, **options), stylizer, jobs, report, done=done)
    return report
