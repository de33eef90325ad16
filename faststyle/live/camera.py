"""Frames of a camera or stream as they come: only the newest is kept, whoever is slow misses the
others.

What it is not: videos that are stylized whole, which are `faststyle.video`.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faststyle.images import fitted_size
from faststyle.video.frames import Rgb
from faststyle.video.options import VideoError, require_av

if TYPE_CHECKING:
    from av.container import InputContainer

SYNTHETIC = "lavfi:"  # before a graph of FFmpeg's filters, such as testsrc=size=640x480:rate=30
DEVICES = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
DEFAULT_RATE = 30.0  # frames a second of a source that does not say


class Shot(NamedTuple):
    """A frame, (H, W, 3) uint8, and when it came: seconds of `time.monotonic`."""

    rgb: Rgb
    time: float


class Camera:
    """Reads a source in a thread of its own, until it ends or is closed.

    `source` is the number of a camera, a device, file or URL, or "lavfi:" and a graph of filters.
    What is no camera comes at the speed at which it is meant to be seen. `size` is pixels of the
    shorter side of frames, None as they come. `rate` is frames a second, `read` how many came.
    Raises: VideoError for what cannot be opened, DeviceError without PyAV.

    Example:
        >>> with Camera("lavfi:testsrc=size=320x240:rate=30") as camera:
        ...     camera.newest().rgb.shape
        (240, 320, 3)
    """

    def __init__(self, source: str, size: int | None = None) -> None:
        require_av()
        self.source = source
        self._file, self._paced = _open(source)
        streams = self._file.streams.video
        if not streams:
            self._file.close()
            raise VideoError(f"--source {source}: has no pictures")
        self.rate = float(streams[0].average_rate or streams[0].guessed_rate or DEFAULT_RATE)
        self.read = 0
        self._size = size
        self.failure: str | None = None
        self._shot: Shot | None = None
        self._ended = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def newest(self, timeout: float | None = None) -> Shot | None:
        """Return the newest frame, once; wait for one that was not seen yet. None after the end, or
        `timeout` seconds.

        Raises: VideoError when the source failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._shot or self._ended, timeout)
            shot = self._shot
            self._shot = None
            if shot is None and self.failure:
                raise VideoError(self.failure)
            return shot

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        with self._changed:
            return self._ended and self._shot is None

    def close(self) -> None:
        """Stop reading."""
        self._closing = True
        self._thread.join(timeout=5)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        from av.error import FFmpegError

        try:
            for rgb in self._frames():
                with self._changed:
                    self._shot = Shot(rgb, time.monotonic())
                    self.read = self.read + 1
                    self._changed.notify_all()
                if self._closing:
                    break
        except FFmpegError as error:
            self.failure = f"--source {self.source}: {error.strerror or error}"
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._file.close()

    def _frames(self) -> Iterator[Rgb]:
        began: float | None = None
        for picture in self._file.decode(video=0):
            if self._paced and picture.time is not None:
                began = time.monotonic() - picture.time if began is None else began
                while not self._closing and (early := began + picture.time - time.monotonic()) > 0:
                    time.sleep(min(early, 0.1))
            h, w = picture.height, picture.width
            if self._size is not None:
                h, w = fitted_size(h, w, self._size)
            yield np.asarray(picture.to_ndarray(format="rgb24", width=w, height=h), np.uint8)


def _open(source: str) -> tuple[InputContainer, bool]:
    """Return an open source, and whether it has to be slowed down to its own time."""
    import av
    from av.error import FFmpegError

    options: dict[str, Any] = {}
    name = source
    paced = True
    if source.startswith(SYNTHETIC):
        name = source.removeprefix(SYNTHETIC)
        options = {"format": "lavfi"}
    elif source.isdecimal() or source.startswith("/dev/video"):
        system = next((key for key in DEVICES if sys.platform.startswith(key)), "linux")
        format, pattern = DEVICES[system]
        name = pattern.format(source) if source.isdecimal() else source
        options = {"format": format}
        paced = False
    elif re.match(r"[a-z]+://", source):
        paced = False  # a stream comes at its own speed
    try:
        return av.open(name, **options), paced
    except (FFmpegError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        hint = "; is a camera connected?" if not paced and options else ""
        raise VideoError(f"--source {source}: cannot be opened ({what}){hint}") from error
