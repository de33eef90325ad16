"""What frames are and what is known of them before they are read; and those of numbered pictures.

What it is not: video files, which read.py decodes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faststyle.errors import ImageError
from faststyle.images import READABLE, decode, fitted_size, flatten
from faststyle.video.options import Container, VideoError, VideoOptions, numbered_files

Rgb = NDArray[np.uint8]

PICTURES_RATE = Fraction(25)  # frames a second of numbered pictures: FFmpeg's default

# Of FFmpeg's libavutil/pixfmt.h: AVColorRange, AVColorSpace, and what is unspecified in all
# enumerations of colour.
LIMITED = 1
FULL = 2
RGB = 0
BT709 = 1
BT601 = 5
UNSPECIFIED = 2
# The matrices that libswscale has (SWS_CS_*), by AVColorSpace: BT.709, FCC, BT.601 twice, SMPTE
# 240M, BT.2020.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}


@dataclass(frozen=True)
class Color:
    """How the numbers of a picture are meant, in the enumerations of FFmpeg's libavutil/pixfmt.h."""

    range: int = 0
    space: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class Clip:
    """What is known of a source before its frames are read.

    `height` and `width` are pixels of the upright, resized frames, `time_base` seconds a tick,
    `rate` frames a second (an average where timing varies), `frames` how many to expect, None when
    nothing says. `zero` is the time in seconds, on the source's own clock, that becomes 0.
    `identity` tells a changed source from the one that was begun.
    """

    path: Path
    identity: str
    height: int
    width: int
    time_base: Fraction
    rate: Fraction
    frames: int | None
    zero: Fraction = Fraction(0)
    color: Color = Color(space=RGB)
    aspect: Fraction | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A picture, (H, W, 3) uint8, and when it is shown, in ticks of the clip's time base."""

    rgb: Rgb
    pts: int
    duration: int


class PictureSource:
    """The frames of numbered pictures, or of all pictures in a folder; `skipped` counts those that cannot be read."""

    def __init__(self, path: Path, options: VideoOptions, container: Container) -> None:
        rate = options.rate or PICTURES_RATE
        self.skipped = self.crowded = 0
        self.size: tuple[int, int] | None = None  # (width, height), once it is known
        files = _picture_files(path)
        if container.time_base and container.time_base * container.gap * rate > 1:
            raise VideoError(
                f"{container.format} cannot hold {float(rate):g} frames a second; use a lower --fps"
            )
        start = options.begin
        length = options.length
        inside = [(file, i / rate - start) for i, file in enumerate(files) if i / rate >= start]
        self.files = [file for file, time in inside if length is None or time < length]
        first = next((rgb for rgb in map(self._read, self.files) if rgb is not None), None)
        if first is None:
            raise VideoError(f"{path}: no picture of it can be read")
        h, w = first.shape[:2]
        if options.size is not None:
            h, w = fitted_size(h, w, options.size)
        self.size = (w, h)
        self.clip = Clip(
            path=path,
            identity=file_identity(files),
            height=h,
            width=w,
            time_base=container.time_base or 1 / rate,
            rate=rate,
            frames=len(self.files),
        )

    def frames(self, first: int = 0) -> Generator[Frame, None, None]:
        """Yield the frames from tick `first` of the clip's time base on, in order."""
        self.skipped = 0
        step = 1 / (self.clip.rate * self.clip.time_base)
        for number, file in enumerate(self.files):
            pts = round(number * step)
            if pts >= first:
                rgb = self._read(file)
                if rgb is None:
                    self.skipped += 1
                else:
                    yield Frame(rgb, pts, round((number + 1) * step) - pts)

    def _read(self, file: Path) -> Rgb | None:
        try:
            image = flatten(decode(file))
        except ImageError:
            return None
        if self.size is not None and image.size != self.size:
            image = image.resize(self.size)
        return np.array(image, np.uint8)


def yuv_matrix(space: int, height: int, width: int) -> int:
    """Return the matrix (SWS_CS_*) between YUV and RGB; where a video does not say, what players take for its size."""
    return MATRICES.get(space, BT709 if width >= 1280 or height > 576 else BT601)


def file_identity(files: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and times of change of files."""
    about = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _picture_files(path: Path) -> list[Path]:
    if not path.is_dir():
        files = numbered_files(path)
        if not files:
            raise VideoError(f"{path}: no pictures of that name")
        return files
    files = [
        f
        for f in path.iterdir()
        if f.suffix.lower() in READABLE and not f.name.startswith(".") and f.is_file()
    ]
    if not files:
        raise VideoError(
            f"{path}: no pictures in it ({', '.join(sorted(READABLE))} are looked for)"
        )
    return sorted(
        files,
        key=lambda f: [
            (int(s), "") if s.isdigit() else (-1, s) for s in re.split(r"(\d+)", f.name)
        ],
    )
