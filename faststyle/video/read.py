"""Read a video file as upright RGB frames with their times, through PyAV; what is damaged is left
out and counted.

What it is not: sound and subtitles, which mux.py takes from the source unseen.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from faststyle.images import fitted_size
from faststyle.video.frames import (
    FULL,
    RGB,
    Clip,
    Color,
    Frame,
    PictureSource,
    Rgb,
    file_identity,
    yuv_matrix,
)
from faststyle.video.options import Container, VideoError, VideoOptions, file_url, is_numbered

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

MICROSECOND = Fraction(1, 1_000_000)  # FFmpeg's AV_TIME_BASE
# seconds before the target: files are searched by decoding time, which is before that of showing
SEEK_MARGIN = 1
BAD_READS = 100  # failed reads in a row after which a file has ended
# AVFMT_TS_DISCONT: formats such as MPEG-TS, whose clock may stand anywhere at the beginning
ANY_START = 0x0200


class Shot(NamedTuple):
    """A picture that is not converted yet, and when it is shown, in ticks."""

    picture: VideoFrame
    pts: int
    duration: int


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright: rows and columns are swapped first, then each is turned round."""

    transposed: bool
    upside_down: bool
    mirrored: bool

    def apply(self, rgb: Rgb) -> Rgb:
        """Return (H, W, 3) or (W, H, 3)."""
        if self.transposed:
            rgb = rgb.transpose(1, 0, 2)
        return rgb[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def open_source(
    path: Path, options: VideoOptions, container: Container
) -> VideoSource | PictureSource:
    """Return what reads a video file, or pictures by a pattern or in a folder, for `container`. Raises: VideoError."""
    if path.is_dir() or is_numbered(path):
        return PictureSource(path, options, container)
    return VideoSource(path, options, container)


class VideoSource:
    """The frames of a video file. `skipped` counts damaged ones, `crowded` those too close to the one before."""

    def __init__(self, path: Path, options: VideoOptions, container: Container) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.options = options
        self.gap = container.gap
        self.skipped = self.crowded = 0
        self.reformatter = VideoReformatter()
        with open_input(path) as file:
            stream = find_stream(file, path)
            self.time_base, self.rate = _timing(stream)
            first = next(self._shots(file, stream), None)
            if first is None:
                raise VideoError(f"{path}: no frame of it can be decoded")
            self.clip = self._describe(file, stream, first.picture, container)

    def frames(self, first: int = 0) -> Generator[Frame, None, None]:
        """Yield the frames from tick `first` of the clip's time base on, in order. Raises: VideoError."""
        rate = self.options.rate
        grid = self.time_base
        zero = round(self.clip.zero / grid)
        shots = self._from(zero + math.floor(first * self.clip.time_base / grid))
        shots = (shot._replace(pts=shot.pts - zero) for shot in shots)
        if self.options.start is not None:
            shots = (shot for shot in shots if shot.pts >= 0)
        if rate is not None:
            shots = retime(shots, rate * grid)
            grid = 1 / rate
        before = None
        rgb = np.empty(0, np.uint8)
        for shot in self._placed(shots, grid, first):
            if shot.picture is not before:  # a constant rate repeats pictures
                before = shot.picture
                rgb = self._upright(shot.picture)
            yield Frame(rgb, shot.pts, shot.duration)

    def _placed(self, shots: Iterable[Shot], grid: Fraction, first: int) -> Iterator[Shot]:
        """Take times from a time base of `grid` to the clip's; leave out what is outside, or too close."""
        step = grid / self.clip.time_base
        length = self.options.length
        last: int | None = None
        for shot in shots:
            if length is not None and shot.pts * grid >= length:
                return
            pts = round(shot.pts * step)
            if last is not None and pts < last + self.gap:
                self.crowded += pts >= first
                continue
            last = pts
            if pts >= first:
                yield Shot(shot.picture, pts, max(1, round(shot.duration * step)))

    def _from(self, target: int) -> Iterator[Shot]:
        """Yield shots from one at or before tick `target` on: by seeking, and from the beginning where that fails."""
        from av.error import FFmpegError

        margin = math.ceil(SEEK_MARGIN / self.time_base)
        for seek in (True, False) if target > margin else (False,):
            self.skipped = self.crowded = 0
            with open_input(self.path) as file:
                stream = find_stream(file, self.path)
                if seek:
                    with contextlib.suppress(FFmpegError):
                        file.seek(target - margin, stream=stream)
                shots = self._shots(file, stream)
                head = next(shots, None)
                if seek and (head is None or head.pts > target):
                    continue
                if head is not None:
                    yield head
                    yield from shots
                return

    def _shots(self, file: InputContainer, stream: VideoStream) -> Iterator[Shot]:
        from av.error import FFmpegError

        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = self.options.threads or 0
        step = max(1, round(1 / (self.rate * self.time_base)))
        packets = pictures = errors = expected = 0
        for packet in read_packets(file, [stream]):
            # of Theora and others: the frame before is shown on
            if not packet.size and packet.pts is not None:
                continue
            packets += packet.size > 0
            try:
                decoded: list[VideoFrame] = stream.decode(packet)
            except FFmpegError:
                errors = errors + 1
                decoded = []
            errors += sum(picture.is_corrupt for picture in decoded)
            for picture in decoded:
                if picture.is_corrupt:
                    continue
                pts = expected if picture.pts is None else picture.pts  # bare streams have none
                shot = Shot(picture, pts, picture.duration or step)
                pictures = pictures + 1
                expected = shot.pts + shot.duration
                yield shot
            # What refers to a damaged frame is dropped in silence; only at the end is none still on
            # its way.
            self.skipped = max(errors, packets - pictures) if errors and not packet.size else errors

    def _describe(
        self, file: InputContainer, stream: VideoStream, picture: VideoFrame, into: Container
    ) -> Clip:
        options = self.options
        format = picture.format
        origin = (
            file.start_time * MICROSECOND
            if file.format.flags & ANY_START and file.start_time
            else Fraction(0)
        )
        h = picture.height
        w = picture.width
        aspect = stream.sample_aspect_ratio
        orientation = find_orientation(picture)
        if orientation is not None and orientation.transposed:
            h, w, aspect = w, h, 1 / aspect if aspect else None
        if options.size is not None:
            h, w = fitted_size(h, w, options.size)
        time_base = into.time_base or (1 / options.rate if options.rate else self.time_base)
        rate = min(options.rate or self.rate, 1 / (time_base * into.gap))
        color = Color(
            picture.color_range, picture.colorspace, picture.color_primaries, picture.color_trc
        )
        if format.is_rgb or format.has_palette:
            color = Color(space=RGB)
        elif format.name.startswith("yuvj"):
            color = Color(FULL, color.space, color.primaries, color.transfer)
        notes = []
        bits = max(component.bits for component in format.components)
        if orientation is not None:
            notes.append(
                "frames are turned upright; the file's rotation is applied, not kept as metadata"
            )
        if bits > 8:
            notes.append(f"{bits} bits a channel are taken to 8")
        if (
            any(c.is_alpha for c in format.components)
            and picture.to_ndarray(format="rgba")[..., 3].min() < 255
        ):
            notes.append("transparency is not kept")
        return Clip(
            path=self.path,
            identity=file_identity([self.path]),
            height=h,
            width=w,
            time_base=time_base,
            rate=rate,
            frames=self._expected(file, stream, rate),
            zero=origin + options.begin,
            color=color,
            aspect=aspect if aspect and aspect != 1 else None,
            notes=tuple(notes),
        )

    def _expected(self, file: InputContainer, stream: VideoStream, rate: Fraction) -> int | None:
        options = self.options
        if stream.frames and rate == self.rate and options.start is options.end is None:
            return stream.frames
        if stream.duration:
            seconds = stream.duration * self.time_base
        elif file.duration:
            seconds = file.duration * MICROSECOND
        else:
            return None
        rest = seconds - options.begin
        return max(0, round((rest if options.length is None else min(rest, options.length)) * rate))

    def _upright(self, picture: VideoFrame) -> Rgb:
        """Return a picture as RGB, in the size and orientation of the clip."""
        from av.video.reformatter import Interpolation

        orientation = find_orientation(picture)
        h, w = self.clip.height, self.clip.width
        if orientation is not None and orientation.transposed:
            h, w = w, h
        same = (h, w) == (picture.height, picture.width)
        # Without exact rounding and chroma at full width libswscale darkens 4:2:0 by 1 level of 255
        # (docs/log.md).
        exact = (
            Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
        )
        converted = self.reformatter.reformat(
            picture,
            w,
            h,
            "rgb24",
            src_colorspace=yuv_matrix(picture.colorspace, picture.height, picture.width),
            interpolation=exact | (Interpolation.BILINEAR if same else Interpolation.BICUBIC),
            threads=self.options.threads,
        )
        rgb = np.asarray(converted.to_ndarray(), np.uint8)
        return rgb if orientation is None else np.ascontiguousarray(orientation.apply(rgb))


def retime(shots: Iterable[Shot], step: Fraction) -> Iterator[Shot]:
    """Repeat and leave out shots so that there is one for each tick; `step` is new ticks in an old one."""
    held: Shot | None = None
    tick = least = 0
    for shot in chain(shots, [None]):
        if held is not None:
            end = _nearest((held.pts + held.duration if shot is None else shot.pts) * step)
            for pts in range(tick, max(end, least)):
                yield Shot(held.picture, pts, 1)
            tick = max(tick, end, least)
        elif shot is not None:
            tick = _nearest(shot.pts * step)
            least = tick + 1  # however short it is
        held = shot


def find_orientation(picture: VideoFrame) -> Orientation | None:
    """Return what makes a picture upright by its display matrix, None where there is nothing to do."""
    from av.sidedata.sidedata import Type

    matrix = cast("Mapping[Type, Buffer]", picture.side_data).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]  # (x, y) is shown at (ax + cy, bx + dy)
    transposed = abs(b) > abs(a)
    orientation = Orientation(
        transposed, (b if transposed else d) < 0, (c if transposed else a) < 0
    )
    return (
        orientation
        if any((orientation.transposed, orientation.upside_down, orientation.mirrored))
        else None
    )


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """Open a media file. Raises: VideoError for what is none."""
    import av
    from av.error import FFmpegError

    try:
        file = av.open(file_url(path), metadata_errors="replace")
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except PermissionError:
        raise VideoError(f"{path}: cannot be read (permission denied)") from None
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: not a video that can be read") from error
    with file:
        if file.format.name == "tty":  # FFmpeg shows any text as a video of a terminal
            raise VideoError(f"{path}: not a video that can be read")
        yield file


def find_stream(file: InputContainer, path: Path) -> VideoStream:
    """Return the stream of pictures, which is not the picture of a cover. Raises: VideoError."""
    from av.stream import Disposition

    streams = [s for s in file.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{path}: has no pictures{', only sound' if file.streams.audio else ''}")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: there is no decoder for its pictures in this build of FFmpeg")
    return streams[0]


def read_packets(file: InputContainer, streams: list[Stream]) -> Iterator[Packet[Stream]]:
    """Yield packets, and empty ones at the end; go on after a failed read where there is more."""
    from av.error import FFmpegError

    failed = 0
    while True:
        try:
            for packet in file.demux(streams):
                failed = 0 if packet.size else failed
                yield packet
            return
        except FFmpegError:
            failed += 1
            if failed >= BAD_READS:
                return


def _timing(stream: VideoStream) -> tuple[Fraction, Fraction]:
    """Return seconds a tick and frames a second."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    return stream.time_base or 1 / rate, rate


def _nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
