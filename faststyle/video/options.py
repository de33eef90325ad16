"""The options of a video job, the containers that can be written, and the names of outputs.

Codecs are in write.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from faststyle.errors import FaststyleError, OutputError
from faststyle.extras import require
from faststyle.files import check_free, half_written
from faststyle.images import HEIF, READABLE, WRITABLE, output_format

NUMBERED = re.compile(r"%0?\d*d")  # as in frames/%05d.png
PICTURES_NAME = "%05d.png"  # names of pictures when the output is a folder without a pattern
MOST_SMOOTH = 0.95  # beyond, a picture hardly changes any more
MAX_RATE_DENOMINATOR = 1001  # NTSC rates are fractions such as 30000/1001
# Times are rounded to 1/1,000,000 s. So 0.1 becomes exactly a tenth, not its binary neighbour.
TIME_DENOMINATOR = 1_000_000


class VideoError(FaststyleError):
    """A video cannot be read, or cannot be written with the given options."""


@dataclass(frozen=True)
class VideoOptions:
    """How a video is cut, resized and encoded. A field that is None keeps the input's value.

    `codec` is h264, hevc, vp9, av1, prores, or any encoder of PyAV's FFmpeg. Its default is h264,
    and vp9 in WebM. `quality` is the encoder's CRF; for an encoder without CRF it is a quantiser
    from 1, the best, to 31. `preset` is the encoder's speed (for ProRes: its profile), by the
    encoder's own names. `fps` makes the rate constant. `start` and `end` are seconds from the
    beginning. `size` is the shorter side in pixels. `smooth`, 0 to 0.95, is the share
    of the frame before that is blended into each (smooth.py). `threads` is for the decoder and for
    the encoder, each. `overwrite` replaces an output that exists, and without `resume` also the
    segments of a stopped job. `resume` continues a stopped job.

    Raises: VideoError for a value outside its range.
    """

    codec: str | None = None
    quality: float | None = None
    preset: str | None = None
    fps: float | Fraction | None = None
    start: float | None = None
    end: float | None = None
    size: int | None = None
    smooth: float = 0.0
    threads: int | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.start is not None and not 0 <= self.start < float("inf"):
            raise VideoError(f"`start` must be 0 or more seconds, got {self.start:g}")
        if self.end is not None and not (self.start or 0) < self.end < float("inf"):
            raise VideoError(
                f"`end` must be after `start` ({self.start or 0:g} s), got {self.end:g}"
            )
        if self.fps is not None and not 0.01 <= self.fps <= 1000:
            raise VideoError(f"`fps` must be 0.01 to 1000, got {float(self.fps):g}")
        if not 0 <= self.smooth <= MOST_SMOOTH:
            raise VideoError(f"`smooth` must be 0 to {MOST_SMOOTH}, got {self.smooth:g}")
        for name in ("size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise VideoError(f"`{name}` must be 1 or more, got {value}")

    @property
    def rate(self) -> Fraction | None:
        """Return `fps` as a fraction of frames a second, or None."""
        return (
            None if self.fps is None else Fraction(self.fps).limit_denominator(MAX_RATE_DENOMINATOR)
        )

    @property
    def begin(self) -> Fraction:
        """Return the time in the source, in seconds, at which the output starts."""
        return Fraction(self.start or 0).limit_denominator(TIME_DENOMINATOR)

    @property
    def length(self) -> Fraction | None:
        """Return the seconds between `begin` and the end, or None for all that follows."""
        if self.end is None:
            return None
        return Fraction(self.end).limit_denominator(TIME_DENOMINATOR) - self.begin


@dataclass(frozen=True)
class Container:
    """A file format by FFmpeg's name, and the default codecs for it.

    `codec` encodes the frames. It is None for formats that are made at the end from lossless
    segments (GIF and numbered pictures). `audio` and `subtitles` encode the tracks that cannot be
    copied; None means that the format holds no such tracks. `options` are for FFmpeg's muxer.
    `time_base`, in seconds, is set for formats with a fixed one. `min_gap` is the shortest time
    from one frame to the next, in ticks. `alpha` tells whether it holds transparent pixels.
    """

    format: str
    codec: str | None = None
    audio: str | None = None
    subtitles: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction | None = None
    min_gap: int = 1
    alpha: bool = True


MP4 = Container("mp4", "h264", "aac", "mov_text", {"movflags": "+faststart"}, alpha=False)
CONTAINERS = {
    ".mp4": MP4,
    ".m4v": MP4,
    ".mov": replace(MP4, format="mov", alpha=True),
    ".mkv": Container("matroska", "h264", "libopus", "subrip", time_base=Fraction(1, 1000)),
    ".webm": Container("webm", "vp9", "libopus", "webvtt", time_base=Fraction(1, 1000)),
    # Browsers show a GIF frame of 10 ms for 100 ms, so frames here last 20 ms or more.
    ".gif": Container("gif", time_base=Fraction(1, 100), min_gap=2),
}
PICTURES = Container("pictures")
OPAQUE_PICTURES = frozenset(suffix for suffix, name in WRITABLE.items() if name == "JPEG")
# Files that are clips by their names. GIF is not among them: in a folder it counts as a picture.
CLIPS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".mts", ".vob", ".3gp", ".ogv", ".mxf", ".h264", ".264", ".hevc"),
    }
)


@dataclass(frozen=True)
class Target:
    """The output: a video file, or a pattern of numbered pictures such as frames/%05d.png."""

    path: Path
    container: Container

    @property
    def place(self) -> Path:
        """Return the video file, or the folder of the pictures."""
        return self.path.parent if self.container is PICTURES else self.path

    @property
    def holds_alpha(self) -> bool:
        """Return whether the format can hold transparent pixels."""
        return self.container.alpha and self.path.suffix.lower() not in OPAQUE_PICTURES

    @property
    def partial(self) -> Target:
        """Return the output of a stopped job: out.partial.mp4, or frames.partial/%05d.png."""
        place = self.place.with_name(f"{self.place.stem}.partial{self.place.suffix}")
        path = place / self.path.name if self.container is PICTURES else place
        return Target(path, self.container)

    @property
    def parts(self) -> Path:
        """Return the folder beside the output that holds the segments of a running job."""
        return self.place.with_name(f"{self.place.name}.parts")

    def leftovers(self) -> list[Path]:
        """Return the half outputs of this name that killed jobs left behind."""
        return half_written(self.place)

    def pictures(self) -> list[Path]:
        """Return the existing pictures that match the pattern, by number."""
        return numbered_files(self.path)


def wants_video(inputs: Sequence[str], output: str) -> bool:
    """Return whether a command is about one video, and not about single pictures.

    Numbered pictures, as input or output, count as a video too.
    """
    source = Path(inputs[0])
    target = Path(output)
    # "-" is a pipe, which carries single pictures only.
    if len(inputs) != 1 or "-" in (inputs[0], output):
        return False
    if target.suffix.lower() in CONTAINERS or is_numbered(target) or is_numbered(source):
        return True
    # Neither is a picture: the source counts as a video, whatever its suffix.
    return (
        source.is_file()
        and source.suffix.lower() not in READABLE | HEIF
        and target.suffix.lower() not in WRITABLE
    )


def is_clip(name: str | Path) -> bool:
    """Return whether a file is a clip by its suffix."""
    return Path(name).suffix.lower() in CLIPS


def check_kinds(inputs: Sequence[str], clips: Sequence[Path], output: str) -> None:
    """Check the output of inputs that are no single video. Raises: OutputError.

    `clips` are the videos that the inputs mean. They go into a folder.
    """
    suffix = Path(output).suffix.lower()
    if Path(output).is_dir():
        return
    if suffix in CONTAINERS and "-" in inputs:
        raise OutputError(f"`output` {output}: standard input is read as one picture; name a file")
    if suffix in CONTAINERS and (clips or len(inputs) > 1):
        raise OutputError(f"`output` {output}: several inputs need a folder, not a file")
    if clips and output == "-":
        raise OutputError(f"`output` -: takes one picture, but {clips[0]} is a video; name a file")
    if clips and suffix in WRITABLE:
        raise OutputError(
            f"`output` {output}: a picture, but {clips[0]} is a video; use "
            f"{', '.join(CONTAINERS)}, or numbered pictures: frames/%05d{suffix}"
        )


def parse_rate(text: str) -> Fraction:
    """Return the frames a second in a text: "25", "23.976" or "24000/1001". Raises: VideoError."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise VideoError(
            f"`fps` must be a number or a fraction such as 24000/1001, got {text!r}"
        ) from None


def find_target(path: Path) -> Target:
    """Return the target that an output path names.

    Raises: VideoError for a video format that is not supported, or pictures without a folder;
    OutputError for a picture format that is not supported.
    """
    if is_numbered(path):
        output_format(path)
        if path.parent.resolve() == Path().resolve():
            raise VideoError(f"{path}: name a folder for the pictures, as in frames/{path.name}")
        return Target(path, PICTURES)
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return Target(path / PICTURES_NAME, PICTURES)
    if suffix not in CONTAINERS:
        videos = ", ".join(CONTAINERS)
        pictures = ", ".join(sorted(WRITABLE))
        raise VideoError(
            f"{path}: cannot write {suffix}; use {videos}, "
            f"or a pattern such as frames/%05d.png ({pictures})"
        )
    return Target(path, CONTAINERS[suffix])


def check_target(target: Target, source: Path, overwrite: bool) -> None:
    """Check that writing the output would destroy no file. Raises: OutputError."""
    if target.container is PICTURES:
        taken = target.pictures()
    else:
        taken = [target.path] if target.path.exists() else []
    # A pattern as input stands for many files. None of them may be written over.
    inputs = {source.resolve(), *(p.resolve() for p in numbered_files(source))}
    if any(p.resolve() in inputs for p in [*taken, target.place]):
        raise OutputError(f"`output` {target.path}: the input itself; choose another name")
    if target.container is not PICTURES and target.path.is_dir():
        raise OutputError(f"`output` {target.path}: a folder of that name is in the way")
    for path in taken:
        check_free(path, overwrite)


def is_numbered(path: Path) -> bool:
    """Return whether the file name is a pattern for numbered pictures."""
    return len(NUMBERED.findall(path.name)) == 1 and not path.is_file()


def numbered_files(path: Path) -> list[Path]:
    """Return the existing files of a pattern such as frames/%05d.png, by number.

    A path without a pattern has none.
    """
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
    """Return a path as a URL for FFmpeg, which reads "a:" in a bare name as a protocol."""
    return f"file:{path}"
