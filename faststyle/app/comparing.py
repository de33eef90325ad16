"""Slow against fast on one photo, with the curves of compare/ as they grow."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from faststyle.app.background import followed
from faststyle.app.curves import Line, chart
from faststyle.app.options import AppOptions
from faststyle.checkpoint import read_about
from faststyle.compare.results import Comparison, FastRow, Gallery, SlowRow
from faststyle.compare.run import answers
from faststyle.compare.slow_vs_fast import compare
from faststyle.errors import CheckpointError
from faststyle.files import sha256, write_bytes
from faststyle.images import READABLE, to_pil
from faststyle.serve.styles import Style

SIZE = 256  # pixels: side of the square that is compared
STEPS = 100  # of the slow path, unless asked otherwise
MOST_STEPS = 1000
STARTS = {"content": "slow, started from the photo", "noise": "slow, started from noise"}


@dataclass
class Rows:
    """The measurements so far: of the network, and of the slow path from each start."""

    fast: FastRow | None = None
    slow: dict[str, list[SlowRow]] = field(default_factory=lambda: {init: [] for init in STARTS})

    def add(self, row: FastRow | SlowRow) -> None:
        """Take in a row."""
        if isinstance(row, FastRow):
            self.fast = row
        else:
            self.slow[row.init].append(row)

    def chart(self) -> str:
        """Return the objective by step as SVG, the network's value as a level across."""
        lines = [
            Line(STARTS[init], [(row.step, row.total) for row in rows])
            for init, rows in self.slow.items()
        ]
        last = max((row.step for rows in self.slow.values() for row in rows), default=0)
        if self.fast is not None:
            level = Line("fast, at once", [(0, self.fast.total), (last, self.fast.total)], True)
            lines.append(level)
        return chart(lines, "step of the slow path (objective, log scale)", log=True)

    def status(self, steps: int) -> str:
        """Return in words what is being done."""
        if self.fast is None:
            return "The network paints."
        running = next(
            ((init, rows) for init, rows in reversed(self.slow.items()) if rows), ("content", [])
        )
        done = running[1][-1].step if running[1] else 0
        return (
            f"Fast: {self.fast.seconds:.3g} s. "
            f"{STARTS[running[0]].capitalize()}: step {done} of {steps}."
        )


@dataclass(frozen=True)
class Verdict:
    """A finished comparison: the answer in sentences, and pictures with their captions."""

    sentences: list[str]
    pictures: list[tuple[Path, str]]


def find_painting(style: Style, folders: Iterable[Path]) -> Path | None:
    """Return the file of a style's painting, by its hash, among the pictures of folders.

    Raises: CheckpointError.
    """
    about = read_about(style.checkpoint())
    wanted = about.painting.get("sha256")
    for folder in folders:
        for path in sorted(folder.glob("*")):
            if path.suffix.lower() in READABLE and path.is_file() and sha256(path) == wanted:
                return path
    return None


def run_comparison(
    photo: bytes,
    style: Style,
    painting: Path | None,
    steps: int,
    folder: Path,
    options: AppOptions,
    stop: threading.Event,
) -> Generator[Rows, None, Verdict]:
    """Yield the rows so far; return the verdict, with pictures in a new folder within `folder`.

    `photo` is the content of a file. Raises: CheckpointError where the painting is not known,
    StoppedError, and the errors of `compare`.
    """
    if painting is None:
        file = read_about(style.checkpoint()).painting.get("file", "not known")
        raise CheckpointError(
            f"the painting of {style.name} ({file}) is not on this machine: give its file too"
        )
    place = Path(tempfile.mkdtemp(dir=folder))
    photos = place / "photos"
    write_bytes(photos / "photo.png", photo)  # read by its content, whatever its name
    rows = Rows()

    def run(tell: Callable[[Rows], None]) -> Comparison:
        def note(row: FastRow | SlowRow) -> None:
            rows.add(row)
            tell(rows)

        return compare(
            painting,
            [style.checkpoint()],
            photos,
            sizes=(SIZE,),
            steps=steps,
            vgg_weights=options.vgg_weights,
            device=options.engine.device,
            tell=note,
        )

    comparison = yield from followed(run, stop)
    yield rows
    return Verdict(answers(comparison), _write_pictures(comparison.galleries[0], place))


def _write_pictures(gallery: Gallery, folder: Path) -> list[tuple[Path, str]]:
    """Write photo, network and the last of the slow path; return the files with captions."""
    last = {init: max(s for i, s in gallery.slow if i == init) for init, _ in gallery.slow}
    pictures = [("photo", gallery.content)]
    pictures += [(f"fast: {name}", picture) for name, picture in gallery.fast.items()]
    pictures += [
        (f"{STARTS[init]}, step {step}", gallery.slow[init, step]) for init, step in last.items()
    ]
    written = []
    for number, (caption, picture) in enumerate(pictures):
        path = folder / f"{number}.png"
        to_pil(picture).save(path)
        written.append((path, caption))
    return written
