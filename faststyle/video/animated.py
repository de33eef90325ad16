"""Read animated WebP and AVIF, which Pillow can decode and FFmpeg cannot."""

from __future__ import annotations

import functools
import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faststyle.video.options import VideoError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

HEAD = 32  # bytes at the start of a file that tell its format
MILLISECOND = Fraction(1, 1000)
# Milliseconds. Browsers show a frame without a duration for so long.
UNTIMED = 100


def is_animated(path: Path) -> bool:
    """Return whether a file is a WebP or AVIF of several frames, by its content."""
    from PIL import Image

    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
        if not is_webp and not (head[4:8] == b"ftyp" and b"avis" in head[8:]):
            return False
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def open_animated(path: Path) -> io.BytesIO:
    """Return an animated picture as a lossless video file in memory. Raises: VideoError."""
    return io.BytesIO(_as_matroska(path, path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=1)  # a job opens its source several times
def _as_matroska(path: Path, modified: int) -> bytes:
    """Return the frames as FFV1 in Matroska. `modified` is the file's time, for the cache."""
    import av
    from PIL import Image

    video = io.BytesIO()
    try:
        with Image.open(path) as image, av.open(video, "w", format="matroska") as file:
            durations = _durations(image)
            rate = len(durations) / (sum(durations) * MILLISECOND)
            stream = file.add_stream("ffv1", rate=rate, time_base=MILLISECOND)
            stream.width, stream.height = image.size
            stream.pix_fmt = "bgra"
            start = 0
            for number, duration in enumerate(durations):
                image.seek(number)
                rgba = np.array(image.convert("RGBA"))
                frame = av.VideoFrame.from_ndarray(rgba, "rgba")
                frame.pts = start
                frame.time_base = MILLISECOND
                for packet in stream.encode(frame):
                    packet.duration = duration
                    file.mux(packet)
                start += duration
            file.mux(stream.encode())
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise VideoError(f"{path}: damaged or truncated animation ({error})") from error
    return video.getvalue()


def _durations(image: ImageFile) -> list[int]:
    """Return the duration of each frame in milliseconds."""
    durations = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()  # Pillow tells the duration of a frame that was decoded
        durations.append(round(image.info.get("duration", 0)) or UNTIMED)
    return durations
