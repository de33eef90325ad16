"""What can be asked of a video, checked: options, containers, and the names of what is written.

What it is not: codecs, which write.py knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from faststyle.errors import FaststyleError, OutputError
from faststyle.extras import require
from faststyle.images import READABLE, WRITABLE, output_format

NUMBERED = re.compile(r"%0?\d*d")  # as in frames/%05d.png
PICTURES_NAME = "%05d.png"  # of the pictures in a folder that is named without a pattern
NTSC = 1001  # largest denominator of a frame rate: 30000/1001
MICROSECONDS = 1_000_000  # a second: times are not finer, so that 0.1 means a tenth


class VideoError(FaststyleError):
    """A video cannot be read, or cannot be written as it was asked for."""


@dataclass(frozen=True)
class VideoOptions:
    """How a video is cut, resized and encoded; what is None stays as it is in the input.

    `codec` is h264, hevc, vp9, av1, prores, or any encoder of PyAV's FFmpeg; by default h264, and
    vp9 in WebM. `quality` is the encoder's CRF, or a quantiser from 1, the best, to 31 where it has
    none; `preset` its speed, or the profile of ProRes, by the encoder's names. `fps` makes the rate
    constant. `start` and `end` are seconds from the beginning, `size` pixels of the shorter side,
    `threads` those of decoder and encoder each. Raises: VideoError for values that make no sense.
    """

    codec: str | None = None
    quality: float | None = None
    preset: str | None = None
    fps: float | Fraction | None = None
    start: float | None = None
    end: float | None = None
    size: int | None = None
    threads: int | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.start is not None and not 0 <= self.start < float("inf"):
            raise VideoError(f"--start must be 0 or more seconds, got {self.start:g}")
        if self.end is not None and not (self.start or 0) < self.end < float("inf"):
            raise VideoError(
                f"--end must be after --start ({self.start or 0:g} s), got {self.end:g}"
            )
        if self.fps is not None and not 0.01 <= self.fps <= 1000:
            raise VideoError(f"--fps must be 0.01 to 1000, got {float(self.fps):g}")
        for name in ("size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise VideoError(f"--{name} must be 1 or more, got {value}")

    @property
    def rate(self) -> Fraction | None:
        """Frames a second."""
        return None if self.fps is None else Fraction(self.fps).limit_denominator(NTSC)

    @property
    def begin(self) -> Fraction:
        """Seconds from the beginning at which the output starts."""
        return Fraction(self.start or 0).limit_denominator(MICROSECONDS)

    @property
    def length(self) -> Fraction | None:
        """Seconds after `begin` at which it ends."""
        return (
            None
            if self.end is None
            else Fraction(self.end).limit_denominator(MICROSECONDS) - self.begin
        )


@dataclass(frozen=True)
class Container:
    """A file format: FFmpeg's name of it, and what goes into it where nothing else is asked for.

    `codec` is that of the pictures; None is for formats whose pictures are made at the end, from
    lossless segments. `audio` and `text` encode sound and subtitles that cannot be copied; None: it
    holds none. `time_base` is for formats that know but one, `gap` the least time between two
    frames, in ticks.
    """

    format: str
    codec: str | None = None
    audio: str | None = None
    text: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction | None = None
    gap: int = 1


MP4 = Container("mp4", "h264", "aac", "mov_text", {"movflags": "+faststart"})
CONTAINERS = {
    ".mp4": MP4,
    ".m4v": MP4,
    ".mov": replace(MP4, format="mov"),
    ".mkv": Container("matroska", "h264", "libopus", "subrip", time_base=Fraction(1, 1000)),
    ".webm": Container("webm", "vp9", "libopus", "webvtt", time_base=Fraction(1, 1000)),
    # Browsers show a frame of 10 ms for 100 ms.
    ".gif": Container("gif", time_base=Fraction(1, 100), gap=2),
}
PICTURES = Container("pictures")


@dataclass(frozen=True)
class Target:
    """Where a video goes: a file, or pictures by a numbered pattern such as frames/%05d.png."""

    path: Path
    container: Container

    @property
    def place(self) -> Path:
        """What there is once all is done: the file, or the folder of pictures."""
        return self.path.parent if self.container is PICTURES else self.path

    @property
    def partial(self) -> Target:
        """The name for what there was when a job was stopped: out.partial.mp4, frames.partial/%05d.png."""
        place = self.place.with_name(f"{self.place.stem}.partial{self.place.suffix}")
        return Target(
            place / self.path.name if self.container is PICTURES else place, self.container
        )

    @property
    def parts(self) -> Path:
        """The folder of segments beside it."""
        return self.place.with_name(f"{self.place.name}.parts")

    def pictures(self) -> list[Path]:
        """Return the pictures of this name that are there, by number."""
        return numbered_files(self.path)


def wants_video(inputs: Sequence[str], output: str) -> bool:
    """Return whether what is asked for is a video, or numbered pictures, rather than pictures each on its own."""
    source = Path(inputs[0])
    target = Path(output)
    if len(inputs) != 1 or "-" in (inputs[0], output):
        return False
    if target.suffix.lower() in CONTAINERS or is_numbered(target) or is_numbered(source):
        return True
    return (
        source.is_file()
        and source.suffix.lower() not in READABLE
        and target.suffix.lower() not in WRITABLE
    )


def parse_rate(text: str) -> Fraction:
    """Return frames a second of "25", "23.976" or "24000/1001". Raises: VideoError."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise VideoError(
            f"--fps must be a number or a fraction such as 24000/1001, got {text!r}"
        ) from None


def find_target(path: Path) -> Target:
    """Return what an output path asks for. Raises: VideoError, OutputError for formats that are not offered."""
    if is_numbered(path):
        output_format(path)
        if path.parent.resolve() == Path().resolve():
            raise VideoError(f"{path}: name a folder for the pictures, as in frames/{path.name}")
        return Target(path, PICTURES)
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return Target(path / PICTURES_NAME, PICTURES)
    if suffix not in CONTAINERS:
        what = ", ".join(CONTAINERS)
        pictures = ", ".join(sorted(WRITABLE))
        raise VideoError(
            f"{path}: cannot write {suffix}; use {what}, or a pattern as frames/%05d.png ({pictures})"
        )
    return Target(path, CONTAINERS[suffix])


def check_target(target: Target, source: Path, overwrite: bool) -> None:
    """Check that writing would destroy nothing. Raises: OutputError."""
    taken = (
        target.pictures()
        if target.container is PICTURES
        else [target.path]
        if target.path.exists()
        else []
    )
    inputs = {source.resolve(), *(p.resolve() for p in numbered_files(source))}
    if any(p.resolve() in inputs for p in [*taken, target.place]):
        raise OutputError(f"-o {target.path}: the input itself; choose another name")
    if target.container is not PICTURES and target.path.is_dir():
        raise OutputError(f"-o {target.path}: a folder of that name is in the way")
    if taken and not overwrite:
        raise OutputError(f"-o {taken[0]}: is there already; --overwrite replaces it")


def is_numbered(path: Path) -> bool:
    """Return whether the file name is a pattern for numbered pictures."""
    return len(NUMBERED.findall(path.name)) == 1 and not path.is_file()


def numbered_files(path: Path) -> list[Path]:
    """Return the files that a pattern such as frames/%05d.png stands for, by number; none for other paths."""
    if not is_numbered(path) or not path.parent.is_dir():
        return []
    before, after = NUMBERED.split(path.name)
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    found = [
        (int(match[1]), p) for p in path.parent.iterdir() if (match := pattern.fullmatch(p.name))
    ]
    return [p for _, p in sorted(found)]


def require_av() -> None:
    """Check that PyAV is installed. Raises: DeviceError with the command that installs it."""
    require("av", extra="video")


def file_url(path: Path) -> str:
    """Return a path as FFmpeg takes it: without this, a colon in a name would be read as a protocol."""
    return f"file:{path}"
