"""Frames, the facts about a clip of them, and the reader of numbered pictures.

The reader of video files is in read.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faststyle.errors import ImageError
from faststyle.images import READABLE, decode
from faststyle.sizes import fitted_size
from faststyle.video.options import Container, VideoError, VideoOptions, numbered_files

if TYPE_CHECKING:
    from av import VideoFrame

Rgb = NDArray[np.uint8]
Alpha = NDArray[np.uint8]  # (H, W), from 0, transparent, to 255

PICTURES_RATE = Fraction(25)  # frames a second of numbered pictures: FFmpeg's default

OPAQUE = 255  # the alpha of a pixel that hides all behind it

# Values from FFmpeg's libavutil/pixfmt.h. AVColorRange:
LIMITED = 1
FULL = 2
# AVColorSpace:
RGB = 0
BT709 = 1
BT601 = 5
# The same value in AVColorSpace, AVColorPrimaries and AVColorTransferCharacteristic:
UNSPECIFIED = 2
# From AVColorSpace to the matrices of libswscale (SWS_CS_*): BT.709, FCC, BT.601 (two names),
# SMPTE 240M, BT.2020.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}


@dataclass(frozen=True)
class Color:
    """How pixel values map to colours, in the enumerations of FFmpeg's libavutil/pixfmt.h."""

    range: int = 0
    space: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class Clip:
    """The facts about a source that are known before its frames are read.

    `height` and `width` are in pixels, of the upright and resized frames. `time_base` is the
    length of a tick in seconds. `rate` is in frames a second, an average where the timing varies.
    `frames` is the expected number of frames, or None when the file does not tell. `zero` is the
    time on the source's own clock, in seconds, that becomes 0 in the output. `aspect` is the width
    of a pixel divided by its height, or None for square pixels. `alpha` tells whether frames carry
    one: the source may have transparent pixels, and the output holds them. `identity` changes when
    the source changes: a job is resumed only with the same one.
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
    alpha: bool = False
    notes: tuple[str, ...] = ()


class Memory(NamedTuple):
    """What smoothing needs of the frames so far, both (H, W, 3).

    `before` is the last frame of the source, uint8. `output` is what was made of it, float32, in
    levels from 0 to 255.
    """

    before: Rgb
    output: NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """A picture, (H, W, 3) uint8, with its start and duration in ticks of the clip's time base.

    `memory` is what the next frame is smoothed with. `alpha` goes into the output unchanged.
    """

    rgb: Rgb
    pts: int
    duration: int
    memory: Memory | None = None
    alpha: Alpha | None = None


class TimedPicture(NamedTuple):
    """A decoded picture, not yet RGB, with its start and duration in ticks."""

    picture: VideoFrame
    pts: int
    duration: int


@dataclass
class Losses:
    """Properties of frames that were lost while a source was read.

    `resized` frames had another size than the first one. `interlaced` and `transparent` tell
    whether any frame was made of two fields, and whether any had transparent pixels.
    """

    resized: int = 0
    interlaced: bool = False
    transparent: bool = False
    cut_off: bool = False
    metadata: set[str] = field(default_factory=set)

    def notes(self, clip: Clip) -> list[str]:
        """Return a note for each property."""
        notes = []
        if self.resized:
            size = f"{clip.width}x{clip.height}"
            notes.append(f"frames of another size are resized to {size}: {self.resized}")
        if self.interlaced:
            notes.append("interlaced frames are deinterlaced: two fields become one frame")
        if self.cut_off:
            notes.append(f"{clip.path} is cut off: its last frames are missing")
        if self.transparent:
            notes.append(
                "alpha is left out: transparent pixels are laid on white "
                "(WebM, GIF, PNG, and ProRes in MOV hold it)"
            )
        if self.metadata:
            notes.append(f"metadata of frames is left out: {', '.join(sorted(self.metadata))}")
        return notes

    def lay_on_white(self, rgba: Rgb) -> Rgb:
        """Return RGB from (H, W, 4); where a pixel is transparent, white shows through."""
        rgb = rgba[..., :3]
        alpha = rgba[..., 3:].astype(np.uint16)
        if alpha.min() == OPAQUE:
            return np.ascontiguousarray(rgb)
        self.transparent = True
        mixed = rgb * alpha + OPAQUE * (OPAQUE - alpha)
        return ((mixed + OPAQUE // 2) // OPAQUE).astype(np.uint8)


class PictureSource:
    """The frames of numbered pictures, or of all pictures in a folder.

    `skipped` counts the pictures that cannot be read.
    """

    def __init__(
        self, path: Path, options: VideoOptions, container: Container, keeps_alpha: bool
    ) -> None:
        rate = options.rate or PICTURES_RATE
        self.alpha = False
        self.skipped = 0
        self.losses = Losses()
        files = _picture_files(path)
        if container.time_base and container.time_base * container.min_gap * rate > 1:
            raise VideoError(
                f"{container.format} cannot hold {float(rate):g} frames a second; use a lower `fps`"
            )
        start = options.begin
        length = options.length
        inside = [(file, i / rate - start) for i, file in enumerate(files) if i / rate >= start]
        self.files = [file for file, time in inside if length is None or time < length]
        # The first picture that can be read sets the size of all: a video has only one.
        first = next((image for image in map(_decode, self.files) if image is not None), None)
        if first is None:
            raise VideoError(f"{path}: none of its pictures can be read")
        w, h = first.size
        self.alpha = keeps_alpha and first.mode == "RGBA"
        self.stored = (w, h)
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
            alpha=self.alpha,
        )

    def frames(self, first: int = 0) -> Generator[Frame, None, None]:
        """Yield the frames in order, beginning at tick `first` of the clip's time base."""
        self.skipped = 0
        self.losses = Losses()
        step = 1 / (self.clip.rate * self.clip.time_base)  # ticks from a picture to the next
        for number, file in enumerate(self.files):
            pts = round(number * step)
            if pts >= first:
                image = _decode(file)
                if image is None:
                    self.skipped += 1
                    continue
                rgb, alpha = self._convert(image)
                yield Frame(rgb, pts, round((number + 1) * step) - pts, alpha=alpha)

    def notes(self) -> list[str]:
        """Return notes on the properties that were lost while frames were read."""
        return self.losses.notes(self.clip)

    def _convert(self, image: Image.Image) -> tuple[Rgb, Alpha | None]:
        """Return a picture in the size of the clip, and its alpha where the output holds it."""
        self.losses.resized += image.size != self.stored
        if image.size != self.size:
            image = image.resize(self.size)
        if self.alpha:
            return split_alpha(np.array(image.convert("RGBA")))
        pixels = np.array(image)
        return (self.losses.lay_on_white(pixels) if image.mode == "RGBA" else pixels), None


def split_alpha(rgba: Rgb) -> tuple[Rgb, Alpha]:
    """Return RGB and alpha from (H, W, 4)."""
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])


def _decode(file: Path) -> Image.Image | None:
    """Return a picture, RGB or RGBA, or None when it cannot be read."""
    try:
        return decode(file)
    except ImageError:
        return None


def yuv_matrix(space: int, height: int, width: int) -> int:
    """Return the matrix between YUV and RGB as a number of libswscale (SWS_CS_*).

    Where a video does not name its colour space, this is the one that players assume for its size.
    """
    return MATRICES.get(space, BT709 if width >= 1280 or height > 576 else BT601)


def file_identity(files: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and modification times of files."""
    about = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _picture_files(path: Path) -> list[Path]:
    """Return the pictures of a pattern or a folder, in order. Raises: VideoError for none."""
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
    return sorted(files, key=_natural_key)


def _natural_key(file: Path) -> list[tuple[int, str]]:
    """Return a sort key by which 10.png comes after 9.png: digits count as numbers."""
    pieces = re.split(r"(\d+)", file.name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
