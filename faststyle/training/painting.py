"""The paintings that a run is for: read once, and named by what is in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from faststyle.errors import ImageError
from faststyle.files import sha256
from faststyle.images import READABLE, read_image


@dataclass(frozen=True)
class Painting:
    """A painting as it was when the run began: its file, the file's sha256, and its pixels.

    `image` is RGB, (1, 3, H, W), in [0, 1], at the size of the file.
    """

    path: Path
    sha256: str
    image: Tensor = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return what the style is called: the name of the file, without its suffix."""
        return self.path.stem


def read_painting(path: str | Path) -> Painting:
    """Return the painting of an image file. Raises: ImageError."""
    image = read_image(path)  # says what is wrong with the file
    return Painting(Path(path), sha256(path), image)


def read_paintings(path: str | Path) -> tuple[list[Painting], list[tuple[str, str]]]:
    """Return the painting of a file, or those of a folder in the order of their names.

    A file in a folder that cannot be read is left out; the second list has its name and the reason.
    Raises: ImageError for a file that cannot be read, a folder without a painting, or two files of
    one name.
    """
    path = Path(path)
    if not path.is_dir():
        return [read_painting(path)], []
    found: list[Painting] = []
    skipped: list[tuple[str, str]] = []
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in READABLE or file.name.startswith("."):
            continue
        try:
            found.append(read_painting(file))
        except ImageError as error:
            skipped.append((file.name, str(error)))
    if not found:
        raise ImageError(f"--style {path}: no painting in this folder can be read")
    names = [painting.name for painting in found]
    for name in names:
        if names.count(name) > 1:
            raise ImageError(f"--style {path}: two paintings are called {name!r}; rename one")
    return found, skipped


def digest(paintings: Sequence[Painting]) -> str:
    """Return one sha256 for all paintings: that of the file where there is one only."""
    if len(paintings) == 1:
        return paintings[0].sha256
    return hashlib.sha256(" ".join(p.sha256 for p in paintings).encode()).hexdigest()
