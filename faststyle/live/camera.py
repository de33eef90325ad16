"""Read a camera or stream and keep only its newest frame: a slow reader misses the others.

Videos that are stylized whole, frame by frame, are in `faststyle.video`.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faststyle.sizes import fitted_size
from faststyle.video.frames import Rgb
from faststyle.video.options import VideoError, require_av

if TYPE_CHECKING:
    from av.container import InputContainer

# The prefix of sources that FFmpeg's filters make, such as lavfi:testsrc=size=640x480:rate=30.
SYNTHETIC = "lavfi:"
# By `sys.platform`: FFmpeg's name for cameras, and the name of a camera by its number.
DEVICES = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
DEFAULT_RATE = 30.0  # frames a second, for sources that do not tell theirs
CLOSE_TIMEOUT = 5  # seconds; a source that gives no frames cannot be interrupted


class CameraFrame(NamedTuple):
    """A frame, (H, W, 3) uint8, and the time of its arrival, in seconds of `time.monotonic`."""

    rgb: Rgb
    arrival: float


class Camera:
    """Reads a source in a thread of its own, until the source ends or `close` is called.

    `source` is the number of a camera, a device, file or URL, or "lavfi:" and a graph of FFmpeg's
    filters. Files and graphs are slowed down to the speed at which they are meant to be seen.
    `size` is the shorter side of the frames in pixels; None keeps the source's size.

    `rate` is in frames a second. `read` counts the frames that came.

    Raises: VideoError for a source that cannot be opened, DeviceError without PyAV.

    Example:
        >>> with Camera("lavfi:testsrc=size=320x240:rate=30") as camera:
        ...     camera.newest().rgb.shape
        (240, 320, 3)
    """

    def __init__(self, source: str, size: int | None = None) -> None:
        require_av()
        self.source = source
        self._file, self._paced = _open_source(source)
        streams = self._file.streams.video
        if not streams:
            self._file.close()
            raise VideoError(f"`source` {source}: has no pictures")
        self.rate = float(streams[0].average_rate or streams[0].guessed_rate or DEFAULT_RATE)
        self.read = 0
        self._size = size
        self._failure: str | None = None
        # `_newest` and `_ended` are shared with the thread; whoever reads or sets them holds this.
        self._changed = threading.Condition()
        self._newest: CameraFrame | None = None
        self._ended = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def newest(self, timeout: float | None = None) -> CameraFrame | None:
        """Return the newest frame if it was not returned before, else wait for the next one.

        Return None after the end of the source, or after `timeout` seconds.

        Raises: VideoError when the source failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._ended, timeout)
            frame = self._newest
            self._newest = None
            if frame is None and self._failure:
                raise VideoError(self._failure)
            return frame

    @property
    def ended(self) -> bool:
        """Return whether the source has ended and its last frame was returned."""
        with self._changed:
            return self._ended and self._newest is None

    def close(self) -> None:
        """Stop reading."""
        self._closing = True
        self._thread.join(timeout=CLOSE_TIMEOUT)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        """Read frames until the end; each replaces the one before."""
        from av.error import FFmpegError

        try:
            for rgb in self._frames():
                # A frame that nobody took is replaced: that is how frames are dropped.
                with self._changed:
                    self._newest = CameraFrame(rgb, time.monotonic())
                    self.read += 1
                    self._changed.notify_all()
                if self._closing:
                    break
        except FFmpegError as error:
            self._failure = f"`source` {self.source}: {error.strerror or error}"
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._file.close()

    def _frames(self) -> Iterator[Rgb]:
        """Yield the frames of the source in its own time."""
        began: float | None = None
        for picture in self._file.decode(video=0):
            if self._paced and picture.time is not None:
                began = time.monotonic() - picture.time if began is None else began
                # Short sleeps, so that `close` does not wait for a frame that is far ahead.
                while not self._closing and (early := began + picture.time - time.monotonic()) > 0:
                    time.sleep(min(early, 0.1))
            # FFmpeg resizes in the same step in which it converts to RGB.
            h, w = picture.height, picture.width
            if self._size is not None:
                h, w = fitted_size(h, w, self._size)
            yield np.asarray(picture.to_ndarray(format="rgb24", width=w, height=h), np.uint8)


def _open_source(source: str) -> tuple[InputContainer, bool]:
    """Return an open source, and whether it must be slowed down to its own speed.

    Raises: VideoError.
    """
    import av
    from av.error import FFmpegError

    options: dict[str, Any] = {}
    name = source
    paced = True
    is_camera = False
    if source.startswith(SYNTHETIC):
        name = source.removeprefix(SYNTHETIC)
        options = {"format": "lavfi"}
    elif source.isdecimal() or source.startswith("/dev/video"):
        system = next((key for key in DEVICES if sys.platform.startswith(key)), "linux")
        format, pattern = DEVICES[system]
        name = pattern.format(source) if source.isdecimal() else source
        options = {"format": format}
        paced = False
        is_camera = True
    elif re.match(r"[a-z]+://", source):
        paced = False  # a stream comes at its own speed
    try:
        return av.open(name, **options), paced
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "; is a camera connected?" if is_camera else ""
        raise VideoError(f"`source` {source}: cannot be opened ({reason}){hint}") from error
