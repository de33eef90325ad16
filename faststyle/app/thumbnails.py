"""A small picture of each style: one photo painted in it, rendered once and kept in the cache."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from faststyle.errors import FaststyleError
from faststyle.files import cache_folder, sha256, write_bytes
from faststyle.images import encode_image, read_image
from faststyle.serve.styles import Catalogue, Style
from faststyle.sizes import crop_centre, fit_shorter
from faststyle.stylize.stylizer import Stylizer
from faststyle.training.photos import example_photo

SIDE = 160  # pixels
VERSION = 1  # of how thumbnails are made; part of their names
QUALITY = 88


def thumbnail_folder() -> Path:
    """Return the folder of all thumbnails."""
    return cache_folder() / "thumbnails"


class Thumbnails:
    """Renders what is missing in a thread of its own, one style after the other."""

    def __init__(self, catalogue: Catalogue, announce: Callable[[str], None]) -> None:
        self._catalogue = catalogue
        self._announce = announce
        self._hashes: dict[tuple[str, tuple[int, int]], str] = {}
        self._failed: set[Path] = set()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="thumbnails", daemon=True)

    def start(self) -> None:
        """Begin to render."""
        self._wanted.set()
        self._thread.start()

    def close(self) -> None:
        """End after the thumbnail that is being rendered."""
        self._ended.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def get(self, names: list[str]) -> dict[str, Path]:
        """Return the files of thumbnails that are there, by style; the others are asked for."""
        known = {style.name: style for style in self._catalogue.styles()}
        found = {}
        for name in names:
            path = self._path(known[name]) if name in known else None
            if path is not None and path.is_file():
                found[name] = path
        if len(found) < len(names):
            self._wanted.set()
        return found

    def _path(self, style: Style) -> Path | None:
        """Return the file for a style, named by the hash of its checkpoint; None without one."""
        try:
            key = (style.name, style.version())
            if key not in self._hashes:
                self._hashes[key] = sha256(style.path)
        except OSError:
            return None
        parts = f"{VERSION} {SIDE} {self._hashes[key]} {style.painting}"
        return thumbnail_folder() / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.jpg"

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait()
            self._wanted.clear()
            for style in self._catalogue.styles():
                if self._ended.is_set():
                    return
                path = self._path(style)
                if path is not None and path not in self._failed and not path.is_file():
                    self._render(style, path)

    def _render(self, style: Style, path: Path) -> None:
        try:
            # In torch: other engines would have to convert the network first.
            stylizer = Stylizer.load(style.checkpoint(), engine="torch", device="cpu")
            picture = stylizer(_photo())
            write_bytes(path, encode_image(picture, "JPEG", quality=QUALITY))
        except (FaststyleError, OSError) as error:
            self._failed.add(path)
            self._announce(f"{style.name}: no thumbnail: {error}")


@functools.cache
def _photo() -> Tensor:
    """Return the photo that all thumbnails show, (1, 3, SIDE, SIDE)."""
    return crop_centre(fit_shorter(read_image(example_photo()), SIDE), SIDE)
