"""The progress of a run on stderr: a live bar in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# the terms that fit into one line, in this order
SHOWN = ("content_rel", "style_rel", "total")


class StepProgress:
    """Shows steps, images/s, the terms of the objective and the time left; nothing when `quiet`.

    `work` is its name, and `done` the number of steps that an earlier run has taken.

    Example:
        >>> with StepProgress("training", steps=100, done=0, quiet=False) as progress:
        ...     progress.update(10, {"total": 3.2, "images_per_second": 2.0})
    """

    def __init__(self, work: str, steps: int, done: int, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.steps = steps
        self.first = done
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn(work),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[terms]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(work, total=steps, completed=done, terms="")

    def __enter__(self) -> StepProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        self.console.print(line, markup=False)

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self.bar.update(self.task, completed=step)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the latest values: in the bar, or as a line where there is no terminal."""
        terms = "  ".join(f"{name} {values[name]:.3f}" for name in SHOWN if name in values)
        if "images_per_second" in values:
            terms = f"{values['images_per_second']:.2f} images/s  {terms}"
        self.bar.update(self.task, completed=step, terms=terms)
        if not self.console.is_terminal:
            seconds_per_step = (time.monotonic() - self.started) / max(1, step - self.first)
            left = seconds_per_step * (self.steps - step)
            self.say(
                f"step {step}/{self.steps}  {terms}  {int(left // 60)}:{int(left % 60):02d} left"
            )
