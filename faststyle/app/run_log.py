"""How far a training is, read from the lines that `faststyle train` prints (progress.py).

TensorBoard's files say the same, but are written up to two minutes late.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

# "step 10/550  1.52 images/s  content_rel 0.412  style_rel 0.530  total 2.100  6:02 left"
STEP = re.compile(r"step (\d+)/(\d+)  (?:([\d.]+) images/s  )?(.*?)(?:  )?(\d+):(\d\d) left")
TERM = re.compile(r"(\w+) (-?\d+\.\d+)")
RESUMED = re.compile(r"resumed after step (\d+)")
BEGUN = "painting "
ERROR = "error: "


@dataclass
class Progress:
    """How far a run is: its last step of `steps`, the terms by step, and its last line."""

    step: int = 0
    steps: int = 0
    seconds_left: int = 0
    images_per_second: float = 0.0
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    last_line: str = ""
    begun: bool = False  # a process has begun, and no step was logged since

    @property
    def error(self) -> str:
        """Return the error that the run ended with, "" where there is none."""
        return self.last_line.removeprefix(ERROR) if self.last_line.startswith(ERROR) else ""

    def add(self, line: str) -> None:
        """Take in one line."""
        self.last_line = line
        if line.startswith(BEGUN):
            self.begun = True
        if found := RESUMED.fullmatch(line):
            self.begun = False
            self._forget_after(int(found[1]))
        if found := STEP.fullmatch(line):
            if self.begun:  # it did not go on from a state
                self.begun = False
                self._forget_after(0)
            self.step = int(found[1])
            self.steps = int(found[2])
            self.images_per_second = float(found[3] or 0)
            self.seconds_left = 60 * int(found[5]) + int(found[6])
            for name, value in TERM.findall(found[4]):
                self.curves.setdefault(name, []).append((self.step, float(value)))

    def _forget_after(self, step: int) -> None:
        """Drop the steps that a run took after the state that it goes on from."""
        for name, points in self.curves.items():
            self.curves[name] = [point for point in points if point[0] <= step]


class RunLog:
    """The log of a run, of which only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lock = threading.Lock()
        self._progress = Progress()

    def read(self) -> Progress:
        """Return how far the run is; a run without a log has not begun."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    data = file.read()
            except OSError:
                return self._progress
            whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written
            self._offset += len(whole)
            for line in whole.decode("utf-8", "replace").splitlines():
                if line.strip():
                    self._progress.add(line.strip())
            return self._progress
