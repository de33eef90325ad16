"""Painting for the page: photos, frames of a webcam and videos, through the service of serve/."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from faststyle.app.background import followed
from faststyle.app.options import AppOptions
from faststyle.errors import ImageError
from faststyle.files import write_bytes
from faststyle.image_metadata import copied_icc
from faststyle.images import QUALITY, decode, flatten
from faststyle.serve.service import Service
from faststyle.serve.styles import Blend, Style
from faststyle.serve.wanted import Wanted
from faststyle.stylize.clip import stylize_clip
from faststyle.stylize.stylizer import Look
from faststyle.video.job import VideoProgress, VideoReport
from faststyle.video.options import VideoOptions

SHOWN_SIDE = 1280  # pixels: longer side of the pictures of before and after
SHOWN_QUALITY = 92
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


@dataclass(frozen=True)
class Choice:
    """A style by name, perhaps blended with a second one, and the look of its pictures."""

    style: str
    second: str
    share: float
    look: Look


@dataclass(frozen=True)
class Painted:
    """A stylized photo: its file, smaller pictures of before and after, and how long it took."""

    file: Path
    before: Path
    after: Path
    size: tuple[int, int]  # height and width
    seconds: float
    notes: tuple[str, ...]


class Studio:
    """Paints what the page is given. Files of its results are in `folder`."""

    def __init__(
        self, options: AppOptions, folder: Path, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        self.options = options
        self.service = Service(options.serving(), announce)
        self._folder = folder
        self._announce = announce

    def names(self) -> list[str]:
        """Return the names of all styles, those of files of their own first."""
        styles = self.service.catalogue.styles()
        return [s.name for s in sorted(styles, key=lambda style: bool(style.painting))]

    def find(self, choice: Choice) -> Style | Blend:
        """Return the style of a choice. Raises: RequestError for an unknown name."""
        first = self.service.catalogue.find(choice.style)
        share = round(min(max(choice.share, 0.0), 1.0), 2)
        if not choice.second or share == 0:
            return first
        second = self.service.catalogue.find(choice.second)
        return second if share == 1 else Blend(first, second, share)

    async def paint(self, photo: bytes, choice: Choice, size: int | None) -> Painted:
        """Return a photo, the content of a file, in a style. `size` is its shorter side.

        Raises: RequestError.
        """
        wanted = Wanted("", size, choice.look, None, QUALITY)
        began = time.perf_counter()
        answer = await self._stylize(photo, choice, wanted)
        seconds = time.perf_counter() - began
        return await asyncio.to_thread(self._write, photo, answer, seconds)

    async def frame(self, photo: bytes, choice: Choice, size: int) -> tuple[bytes, float]:
        """Return a frame as a JPEG file, and the seconds that it took. Raises: RequestError."""
        look = replace(choice.look, abstraction=0.0)  # there is no time for it
        wanted = Wanted("", size, look, "jpeg", SHOWN_QUALITY)
        began = time.perf_counter()
        answer = await self._stylize(photo, choice, wanted)
        return answer.data, time.perf_counter() - began

    def video(
        self, source: Path, choice: Choice, size: int | None, stop: threading.Event
    ) -> Generator[VideoProgress, None, tuple[Path, VideoReport, str]]:
        """Yield the progress; return the file, its report, and the line on the engine.

        Raises: ImageError for a file of too many bytes, StoppedError, and the errors of
        `stylize_clip`.
        """
        if os.path.getsize(source) > self.options.max_video_bytes:
            raise ImageError(
                f"the video has more than {self.options.max_video_bytes:,} bytes; cut it first"
            )
        target = self._place() / "painted.mp4"
        names = self.find(choice).names()

        def run(tell: Callable[[VideoProgress], None]) -> tuple[VideoReport, str]:
            return stylize_clip(
                source,
                target,
                names,
                VideoOptions(size=size, overwrite=True),
                choice.look,
                self.options.engine,
                progress=tell,
                announce=self._announce,
            )

        report, engine = yield from followed(run, stop)
        return target, report, engine

    def _place(self) -> Path:
        """Return a new folder for a result."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    async def _stylize(self, photo: bytes, choice: Choice, wanted: Wanted) -> Any:
        style = self.find(choice)
        deadline = asyncio.get_running_loop().time() + self.options.timeout
        with self.service.place():
            return await self.service.stylize(photo, wanted, "", _never, deadline, style)

    def _write(self, photo: bytes, answer: Any, seconds: float) -> Painted:
        folder = self._place()
        file = folder / f"painted{SUFFIXES[answer.media_type]}"
        write_bytes(file, answer.data)
        size = _shrink(answer.data, folder / "after.jpg")
        _shrink(photo, folder / "before.jpg", size)
        return Painted(
            file, folder / "before.jpg", folder / "after.jpg", size, seconds, answer.notes
        )


def _shrink(data: bytes, path: Path, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Write a picture as a page shows it, and return its height and width.

    With `size` it is shown as large as a picture of that size would be.
    """
    image = decode(data, "the photo", shrink_to=SHOWN_SIDE if size else None)
    h, w = size or image.size[::-1]
    scale = min(1.0, SHOWN_SIDE / max(h, w))
    shown = flatten(image).resize((max(1, round(w * scale)), max(1, round(h * scale))))
    icc = copied_icc(image.info.get("icc_profile"))
    shown.save(path, "JPEG", quality=SHOWN_QUALITY, icc_profile=icc)
    return h, w


async def _never() -> None:
    """Wait for ever: the page does not say that somebody has gone."""
    await asyncio.Event().wait()
