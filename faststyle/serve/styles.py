"""The styles of the service: which there are, and those that are kept loaded."""

from __future__ import annotations

import difflib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from faststyle.checkpoint import (
    GALLERY,
    checkpoints_at_hand,
    find_checkpoint,
    package_collections,
    painting_names,
    read_about,
)
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, FaststyleError, one_line
from faststyle.serve.options import RequestError
from faststyle.stylize.stylizer import Stylizer

FRESH = 1.0  # seconds that a listing of the folders is taken for true


@dataclass(frozen=True)
class Style:
    """A style that may be asked for: its name, its file, and the painting of a collection."""

    name: str
    path: Path
    painting: str
    about: dict[str, Any]

    def version(self) -> tuple[int, int]:
        """Return a value that changes when the file is replaced. Raises: OSError."""
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size

    def checkpoint(self) -> Path:
        """Return the checkpoint to load. Raises: CheckpointError."""
        name = f"{self.path}:{self.painting}" if self.painting else str(self.path)
        return find_checkpoint(name)

    def names(self) -> list[str]:
        """Return what `Stylizer.blend` takes for it. Raises: CheckpointError."""
        return [str(self.checkpoint())]


@dataclass(frozen=True)
class Blend:
    """Two styles at once; `share` is that of the second one, between 0 and 1."""

    first: Style
    second: Style
    share: float

    @property
    def name(self) -> str:
        """Return a name that no other style has, and no other share."""
        return f"{self.first.name} + {self.share:g} of {self.second.name}"

    def version(self) -> tuple[int, ...]:
        """Return a value that changes when a file is replaced. Raises: OSError."""
        return (*self.first.version(), *self.second.version())

    def names(self) -> list[str]:
        """Return what `Stylizer.blend` takes for it. Raises: CheckpointError."""
        first, second = (style.checkpoint() for style in (self.first, self.second))
        return [f"{first}:{1 - self.share:g}", f"{second}:{self.share:g}"]


class Catalogue:
    """The styles of the folders of styles and of the package, by name.

    Requests choose from these names alone, so none of them can be a path.
    """

    def __init__(self) -> None:
        self._styles: dict[str, Style] = {}
        self._listed = -FRESH
        self._lock = threading.Lock()

    def styles(self) -> list[Style]:
        """Return all styles; the folders are listed again where that was a while ago."""
        with self._lock:
            if time.monotonic() - self._listed >= FRESH:
                self._styles = {style.name: style for style in _list_styles()}
                self._listed = time.monotonic()
            return list(self._styles.values())

    def find(self, name: str) -> Style:
        """Return the style of a name. Raises: RequestError."""
        known = {style.name: style for style in self.styles()}
        if name in known:
            return known[name]
        # As everywhere, the network may be left out for the gallery: the_scream.
        for style in known.values():
            if style.path.parent == GALLERY and style.path.stem.startswith(f"{name}-"):
                return style
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "GET /styles lists them"
        raise RequestError(HTTPStatus.NOT_FOUND, f"no style {name!r:.80}: {hint}")


class Shelf:
    """Loaded styles: the one that was not used for the longest time makes room for a new one.

    One thread uses it: the worker.
    """

    def __init__(self, places: int, engine: EngineOptions, announce: Callable[[str], None]) -> None:
        self._places = places
        self._engine = engine
        self._announce = announce
        self._loaded: OrderedDict[str, tuple[tuple[int, ...], Stylizer]] = OrderedDict()
        self.loads = 0  # how often a style was loaded

    def __len__(self) -> int:
        return len(self._loaded)

    def names(self) -> list[str]:
        """Return the names of the loaded styles, the one to go first at the start."""
        return list(self._loaded)

    def get(self, style: Style | Blend, convert: bool = False) -> Stylizer:
        """Return the stylizer of a style, loaded now if it is not there or its file was replaced.

        `convert` lets its network be converted for the fastest engine, which takes many seconds.
        Without it, that engine runs only networks that were converted before, and torch the others.
        Raises: RequestError where it cannot be loaded; the reason is announced, since it may name
        files of this machine.
        """
        try:
            version = style.version()
            known = self._loaded.get(style.name)
            if known is not None and known[0] == version:
                self._loaded.move_to_end(style.name)
                return known[1]
            self._loaded.pop(style.name, None)
            while len(self._loaded) >= self._places:
                self._loaded.popitem(last=False)
            stylizer = self._load(style, convert)
        except (FaststyleError, OSError) as error:
            self._announce(f"{style.name} cannot be loaded: {error}")
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the style {style.name} cannot be loaded; the server's log has the reason",
            ) from error
        self._loaded[style.name] = (version, stylizer)
        return stylizer

    def _load(self, style: Style | Blend, convert: bool) -> Stylizer:
        self.loads += 1
        stylizer = Stylizer.blend(
            style.names(),
            replace(self._engine, convert=convert),
            announce=lambda line: self._announce(f"{style.name}: {line}"),
        )
        self._announce(f"{style.name}: loaded, {stylizer.describe()}")
        return stylizer


def _list_styles() -> Iterator[Style]:
    """Yield the styles at hand; a checkpoint that cannot be read is left out."""
    for path in [*checkpoints_at_hand(), *package_collections()]:
        try:
            about = read_about(path)
        except CheckpointError:
            continue
        names = painting_names(about)
        paintings = zip(names, about.paintings, strict=True) if names else [("", about.painting)]
        for name, painting in paintings:
            details = {
                "collection": path.stem if name else None,
                "painting": one_line(str(painting.get("file", ""))),
                "network": dict(about.network),
                "license": one_line(about.license),
            }
            yield Style(f"{path.stem}:{name}" if name else path.stem, path, name, details)
