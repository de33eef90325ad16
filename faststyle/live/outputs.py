"""Outputs of live frames: a window, a recording, a virtual camera, or an MJPEG stream (mjpeg.py).

The frames are made in live/loop.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from faststyle.errors import OutputError
from faststyle.files import check_free, check_place, writing
from faststyle.live.mjpeg import DEFAULT_PORT, MjpegOutput
from faststyle.video.frames import Rgb
from faststyle.video.options import VideoError

RECORDED = (".mp4", ".mkv", ".mov")
CLOCK = Fraction(1, 1000)  # seconds in a tick of recordings
KEY_NAMES = {"space": " ", "plus": "+", "minus": "-", "Escape": "q"}  # from tkinter's names


class Output(Protocol):
    """A receiver of stylized frames. Some outputs also have keys."""

    def show(self, rgb: Rgb, seconds: float) -> None:
        """Show a frame, (H, W, 3) uint8, that came `seconds` after the first."""
        ...

    def pressed(self) -> str:
        """Return the keys that were pressed since the last call."""
        ...

    def close(self) -> None:
        """Finish and close the output."""
        ...


def open_output(
    target: str | None, rate: float, hosts: Collection[str] = (), overwrite: bool = False
) -> Output:
    """Return the output for None (a window), FILE.mp4, /dev/videoN, or http://127.0.0.1:PORT.

    `rate` is the expected number of frames a second. `hosts` are more names that viewers of a
    stream may ask for. With `overwrite` a recording replaces a file that is there.

    Raises: VideoError for another target; OutputError when it cannot be opened.
    """
    if target is None:
        return WindowOutput()
    if target.startswith("http://"):
        return MjpegOutput(target, hosts)
    if target.startswith("/dev/video"):
        return FileOutput(Path(target), rate, "v4l2")
    if Path(target).suffix.lower() in RECORDED:
        check_free(target, overwrite)
        check_place(target)
        return FileOutput(Path(target), rate)
    known = ", ".join(RECORDED)
    raise VideoError(
        f"`output` {target}: use a file ({known}), /dev/videoN, or http://127.0.0.1:{DEFAULT_PORT}"
    )


class WindowOutput:
    """A window on the screen. Raises: VideoError where there is no screen."""

    def __init__(self) -> None:
        try:
            import tkinter

            self._root = tkinter.Tk()
        except Exception as error:  # no tkinter in this Python, or TclError: no display
            raise VideoError(
                f"no window can be opened here ({error}); use `output` FILE.mp4 or "
                f"`output` http://127.0.0.1:{DEFAULT_PORT}"
            ) from None
        self._root.title("faststyle")
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._pressed = ""
        self._root.bind("<Key>", lambda event: self._add_key(event.keysym))
        self._root.protocol("WM_DELETE_WINDOW", lambda: self._add_key("q"))
        self._photo: Any = None  # tkinter does not keep the shown picture alive

    def _add_key(self, name: str) -> None:
        self._pressed += KEY_NAMES.get(name, name[:1])

    def show(self, rgb: Rgb, seconds: float) -> None:
        from PIL import ImageTk

        self._photo = ImageTk.PhotoImage(Image.fromarray(rgb))
        self._label.configure(image=self._photo)
        self._root.update()

    def pressed(self) -> str:
        self._root.update()
        keys = self._pressed
        self._pressed = ""
        return keys

    def close(self) -> None:
        self._root.destroy()


class FileOutput:
    """A recording, or a virtual camera (v4l2loopback) with the format "v4l2".

    A recording gets its name only when it is complete.
    """

    def __init__(self, path: Path, rate: float, format: str | None = None) -> None:
        self.path = path
        self.rate = rate
        self.format = format
        self._stack = contextlib.ExitStack()
        self._file: Any = None  # opened with the first frame, which tells the size
        self._stream: Any = None
        self._last_pts = -1

    def show(self, rgb: Rgb, seconds: float) -> None:
        """Encode a frame. Raises: OutputError."""
        import av
        from av.error import FFmpegError

        h, w = (side - side % 2 for side in rgb.shape[:2])  # yuv420p has even sizes only
        if min(h, w) < 2:
            raise OutputError(f"cannot write {self.path}: frames need 2 pixels a side; use `size`")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:h, :w]), "rgb24")
        try:
            if self._file is None:
                self._open_file(h, w)
            # Times must rise, also where two frames come within a tick.
            self._last_pts = max(self._last_pts + 1, round(seconds / CLOCK))
            picture.pts = self._last_pts
            picture.time_base = CLOCK
            self._file.mux(self._stream.encode(picture))
        except (FFmpegError, OSError) as error:
            raise OutputError(
                f"cannot write {self.path}: {getattr(error, 'strerror', error)}"
            ) from error

    def _open_file(self, h: int, w: int) -> None:
        import av

        if self.format is not None:
            self._file = self._stack.enter_context(av.open(str(self.path), "w", format=self.format))
            self._stream = self._file.add_stream(
                "rawvideo", rate=round(self.rate), pix_fmt="yuv420p"
            )
        else:
            # The stack closes in reverse: first the file, then it gets its name.
            temporary = self._stack.enter_context(writing(self.path))
            suffix = self.path.suffix.lower()
            format = {".mkv": "matroska"}.get(suffix, suffix[1:])
            self._file = self._stack.enter_context(av.open(str(temporary), "w", format=format))
            # The encoder must keep up with the camera, beside the network.
            options = {"crf": "18", "preset": "ultrafast", "tune": "zerolatency"}
            self._stream = self._file.add_stream("libx264", rate=round(self.rate), options=options)
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = CLOCK
            self._stream.codec_context.time_base = CLOCK
        self._stream.width = w
        self._stream.height = h

    def pressed(self) -> str:
        return ""

    def close(self) -> None:
        if self._file is not None:
            self._file.mux(self._stream.encode(None))
        self._stack.close()
