"""The paintings that a run is for: files that are read and hashed once, when it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from faststyle.errors import ImageError
from faststyle.files import sha256
from faststyle.images import READABLE
from faststyle.networks import one_painting_config
from faststyle.paintings import painting_note
from faststyle.paintings import read_painting as read_pixels


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
        """Return the name of the style: that of the file, without its suffix."""
        return self.path.stem

    def about(self, balance: float) -> dict[str, Any]:
        """Return the entry of a checkpoint for this painting; `balance` is its weight of style."""
        return {
            "name": self.name,
            "file": self.path.name,
            "sha256": self.sha256,
            "size": list(self.image.shape[-2:]),
            "balance": balance,
        }


@dataclass(frozen=True)
class PaintingSet:
    """The paintings that a network is for: one, or those of a folder, a collection.

    `left_out` are files of the folder that cannot be used, each with the reason.
    """

    paintings: tuple[Painting, ...]
    is_collection: bool = False
    left_out: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Painting]:
        return iter(self.paintings)

    def __len__(self) -> int:
        return len(self.paintings)

    def __getitem__(self, number: int) -> Painting:
        return self.paintings[number]

    def network_config(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of such a network for these paintings."""
        config = one_painting_config(network)
        return {**config, "paintings": len(self)} if self.is_collection else config

    def __str__(self) -> str:
        return f"{len(self)} paintings" if self.is_collection else str(self[0].path)

    @property
    def notes(self) -> list[str]:
        """Return a line for each painting that is taken, but suits badly."""
        notes = (painting_note(painting.image, painting.path) for painting in self)
        return [note for note in notes if note]

    @property
    def sha256(self) -> str:
        """Return one hash for all paintings: that of the file where there is one only."""
        if len(self) == 1:
            return self[0].sha256
        return hashlib.sha256(" ".join(p.sha256 for p in self).encode()).hexdigest()


def read_painting(path: str | Path) -> Painting:
    """Return the painting of an image file. Raises: ImageError, also where it holds no style."""
    image = read_pixels(path)  # says what is wrong with the file
    return Painting(Path(path), sha256(path), image)


def read_paintings(path: str | Path) -> PaintingSet:
    """Return the painting of a file, or those of a folder in the order of their names.

    A file in a folder that cannot be used is left out. Raises: ImageError for a file that cannot be
    used, a folder without a painting, or two files of one name.
    """
    if not str(path):  # Path("") is the working folder
        raise ImageError("`style` is empty: name an image file, or a folder of paintings")
    path = Path(path)
    if not path.is_dir():
        return PaintingSet((read_painting(path),))
    found: list[Painting] = []
    left_out: list[tuple[str, str]] = []
    for file in _image_files(path):
        try:
            found.append(read_painting(file))
        except ImageError as error:
            left_out.append((file.name, str(error).removeprefix(f"{file}: ")))
    if not found:
        why = f"; the first is {left_out[0][1]}" if left_out else ""
        raise ImageError(f"`style` {path}: no painting in this folder can be used{why}")
    names = [painting.name for painting in found]
    for name in names:
        if names.count(name) > 1:
            raise ImageError(f"`style` {path}: two paintings are called {name!r}; rename one")
    return PaintingSet(tuple(found), is_collection=True, left_out=tuple(left_out))


def list_paintings(folder: str | Path) -> list[Path]:
    """Return the image files of a folder, by name. Raises: ImageError where there is none."""
    path = Path(folder)
    if not str(folder) or not path.is_dir():
        raise ImageError(f"`style` {folder}: a folder of paintings is needed with `each`")
    files = _image_files(path)
    if not files:
        raise ImageError(f"`style` {path}: no image file in this folder")
    return files


def _image_files(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"`style` {folder}: cannot be read ({error.strerror})") from None
    return [
        file for file in files if file.suffix.lower() in READABLE and not file.name.startswith(".")
    ]
