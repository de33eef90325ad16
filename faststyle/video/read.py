"""Read a video file through PyAV, as upright RGB frames with their times.

Damaged frames are left out and counted. Sound and subtitles are read in mux.py.
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
from typing import TYPE_CHECKING, cast

import numpy as np

from faststyle.sizes import fitted_size
from faststyle.video.frames import (
    FULL,
    RGB,
    Alpha,
    Clip,
    Color,
    Frame,
    Losses,
    PictureSource,
    Rgb,
    TimedPicture,
    file_identity,
    split_alpha,
    yuv_matrix,
)
from faststyle.video.interlaced import deinterlace
from faststyle.video.options import Container, VideoError, VideoOptions, is_numbered
from faststyle.video.streams import (
    MICROSECOND,
    exact_ticks,
    find_decoder,
    find_stream,
    is_tagged_with_alpha,
    open_input,
    read_packets,
    time_base_and_rate,
    why_unreadable,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Seconds before the wanted frame. FFmpeg seeks by decoding time, which is earlier than the time at
# which a frame is shown.
SEEK_MARGIN = 1
# Names of what frames carry besides pixels, by PyAV's names in `av.sidedata.sidedata.Type`.
METADATA = {
    "A53_CC": "closed captions",
    "STEREO3D": "stereo 3D",
    "SPHERICAL": "360 degrees",
    "MASTERING_DISPLAY_METADATA": "HDR",
    "CONTENT_LIGHT_LEVEL": "HDR",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_METADATA": "Dolby Vision",
}
# AVFMT_TS_DISCONT: formats such as MPEG-TS, whose clock may start at any time.
ANY_START = 0x0200


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright.

    First rows and columns are swapped (`transposed`). Then the order of the rows (`upside_down`)
    and of the columns (`mirrored`) is reversed.
    """

    transposed: bool
    upside_down: bool
    mirrored: bool

    def apply(self, rgb: Rgb) -> Rgb:
        """Return the upright view of (H, W, 3): (W, H, 3) when transposed."""
        if self.transposed:
            rgb = rgb.transpose(1, 0, 2)
        return rgb[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def open_clip(
    path: Path, options: VideoOptions, container: Container, keeps_alpha: bool = False
) -> VideoSource | PictureSource:
    """Return the reader of a video file, a pattern or a folder. Raises: VideoError.

    `container` is the output's: its time base and shortest frame apply to the frames. With
    `keeps_alpha` the output holds alpha; else transparent pixels are laid on white.
    """
    if path.is_dir() or is_numbered(path):
        return PictureSource(path, options, container, keeps_alpha)
    return VideoSource(path, options, container, keeps_alpha)


class VideoSource:
    """The frames of a video file.

    `skipped` counts damaged frames. `too_close` counts frames that are left out because they come
    too soon after another for the container.
    """

    def __init__(
        self, path: Path, options: VideoOptions, container: Container, keeps_alpha: bool
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.options = options
        self.keeps_alpha = keeps_alpha
        self.min_gap = container.min_gap
        self.skipped = 0
        self.too_close = 0
        self.losses = Losses()
        self.reformatter = VideoReformatter()
        with open_input(path) as file:
            stream = find_stream(file, path)
            stored, self.rate = time_base_and_rate(stream)
            self.time_base = exact_ticks(stored, self.rate)
            self.fineness = round(stored / self.time_base)
            self.grid_start: int | None = None
            self.last_dts: int | None = None  # of the last packet that was read
            first = next(self._decode(file, stream), None)
            if first is None:
                reason = why_unreadable(path) or "no frame of it can be decoded"
                raise VideoError(f"{path}: {reason}")
            self.grid_start = first.pts
            self.stored_size = (first.picture.width, first.picture.height)
            self.clip = self._describe_clip(file, stream, first.picture, container)

    def notes(self) -> list[str]:
        """Return notes on the frames and properties that were lost while frames were read."""
        notes = self.losses.notes(self.clip)
        if self.too_close:
            gap = float(self.min_gap * self.clip.time_base * 1000)
            left_out = f"{self.too_close} frames are left out that came less than "
            notes.append(f"{left_out}{gap:g} ms after another")
        return notes

    def frames(self, first: int = 0) -> Generator[Frame, None, None]:
        """Yield the frames in order, beginning at tick `first` of the clip's time base.

        Raises: VideoError.
        """
        rate = self.options.rate
        tick = self.time_base  # seconds: length of the ticks that `timed` counts in
        zero = round(self.clip.zero / tick)
        timed = self._decode_from(zero + math.floor(first * self.clip.time_base / tick))
        timed = deinterlace(timed, self.losses)
        timed = (one._replace(pts=one.pts - zero) for one in timed)
        if self.options.start is not None:
            timed = (one for one in timed if one.pts >= 0)
        if rate is not None:
            timed = make_rate_constant(timed, rate * tick)
            tick = 1 / rate
        last_picture = None
        rgb = np.empty(0, np.uint8)
        alpha = None
        for one in self._to_clip_ticks(timed, tick, first):
            # A constant rate repeats pictures. Each is converted only once.
            if one.picture is not last_picture:
                last_picture = one.picture
                rgb, alpha = self._to_upright_rgb(one.picture)
            yield Frame(rgb, one.pts, one.duration, alpha=alpha)

    def _to_clip_ticks(
        self, timed: Iterable[TimedPicture], tick: Fraction, first: int
    ) -> Iterator[TimedPicture]:
        """Convert times from ticks of `tick` seconds to ticks of the clip.

        Pictures before `first`, after the end, or too close to the one before are left out.
        """
        step = tick / self.clip.time_base
        length = self.options.length
        last: int | None = None
        for one in timed:
            if length is not None and one.pts * tick >= length:
                return
            pts = round(one.pts * step)
            if last is not None and pts < last + self.min_gap:
                # Those before `first` were counted by the run that is resumed.
                self.too_close += pts >= first
                continue
            last = pts
            if pts >= first:
                yield TimedPicture(one.picture, pts, max(1, round(one.duration * step)))

    def _decode_from(self, target: int) -> Iterator[TimedPicture]:
        """Yield the pictures from one at or before tick `target` on.

        Some files cannot seek, or land after the target. They are read from the beginning.
        """
        from av.error import FFmpegError

        margin = math.ceil(SEEK_MARGIN / self.time_base)
        for seek in (True, False) if target > margin else (False,):
            self.skipped = 0
            self.too_close = 0
            with open_input(self.path) as file:
                stream = find_stream(file, self.path)
                if seek:
                    with contextlib.suppress(FFmpegError):
                        file.seek((target - margin) // self.fineness, stream=stream)
                timed = self._decode(file, stream)
                head = next(timed, None)
                if seek and (head is None or head.pts > target):
                    continue
                if head is not None:
                    yield head
                    yield from timed
                return

    def _decode(self, file: InputContainer, stream: VideoStream) -> Iterator[TimedPicture]:
        """Yield the pictures of a stream, the last with its duration up to the stream's end.

        MP4 stores durations in the order of decoding, so that of the last picture is another's.
        """
        held: TimedPicture | None = None
        for one in self._decode_packets(file, stream):
            if held is not None:
                yield held
            held = one
        if held is not None:
            entries = getattr(stream, "index_entries", None) or []  # since PyAV 17
            is_whole = len(entries) > 0 and entries[-1].timestamp == self.last_dts
            # The length in the header counts only where no frame of the index is missing.
            if is_whole and stream.duration:
                end = ((stream.start_time or 0) + stream.duration) * self.fineness
                held = held._replace(duration=max(held.duration, end - held.pts))
            if entries and not is_whole and "mp4" in file.format.name:
                self.losses.cut_off = True
            yield held

    def _decode_packets(self, file: InputContainer, stream: VideoStream) -> Iterator[TimedPicture]:
        """Yield the pictures of a stream; count the damaged ones in `skipped`."""
        from av.error import FFmpegError

        decoder = find_decoder(stream)
        decoder.thread_type = "AUTO"
        decoder.thread_count = self.options.threads or 0
        step = max(1, round(1 / (self.rate * self.time_base)))
        packets = 0
        pictures = 0
        errors = 0
        expected = 0  # tick of the next picture, for streams without times
        for packet in read_packets(file, [stream]):
            self.last_dts = self.last_dts if packet.dts is None else packet.dts
            # Theora and others write an empty packet where the frame before is shown on.
            if not packet.size and packet.pts is not None:
                continue
            packets += packet.size > 0
            try:
                decoded: list[VideoFrame] = decoder.decode(packet)
            except FFmpegError:
                errors += 1
                decoded = []
            errors += sum(picture.is_corrupt for picture in decoded)
            for picture in decoded:
                if picture.is_corrupt:
                    continue
                one = self._time(picture, expected, step)
                pictures += 1
                expected = one.pts + one.duration
                yield one
            # Decoders silently drop the frames that refer to a damaged one. They show up as packets
            # without a picture, but only at the end, when no frame is left inside the decoder.
            at_end = not packet.size
            self.skipped = max(errors, packets - pictures) if errors and at_end else errors

    def _time(self, picture: VideoFrame, expected: int, step: int) -> TimedPicture:
        """Return a picture with its time and duration, in ticks of `time_base`.

        `expected` is the time of a picture without one, `step` the duration of one without one.
        Times that were rounded to milliseconds become exact again where they are at a constant
        rate: none moves by more than one tick of the file.
        """
        pts = expected if picture.pts is None else picture.pts * self.fineness
        duration = picture.duration * self.fineness or step
        if self.fineness > 1:
            # The first picture, whose time is always known by then, is where the grid begins.
            start = pts if self.grid_start is None else self.grid_start
            exact = start + round((pts - start) / step) * step
            if abs(exact - pts) <= self.fineness:
                pts = exact
            if abs(duration - step) <= self.fineness:
                duration = step
        return TimedPicture(picture, pts, duration)

    def _describe_clip(
        self, file: InputContainer, stream: VideoStream, picture: VideoFrame, container: Container
    ) -> Clip:
        """Return the facts about the clip, from the file's header and its first picture."""
        options = self.options
        origin = Fraction(0)
        if file.format.flags & ANY_START and file.start_time:
            origin = file.start_time * MICROSECOND
        h, w = picture.height, picture.width
        aspect = stream.sample_aspect_ratio
        orientation = find_orientation(picture)
        if orientation is not None and orientation.transposed:
            h, w = w, h
            aspect = 1 / aspect if aspect else None
        if options.size is not None:
            h, w = fitted_size(h, w, options.size)
        time_base = container.time_base or (1 / options.rate if options.rate else self.time_base)
        rate = min(options.rate or self.rate, 1 / (time_base * container.min_gap))
        return Clip(
            path=self.path,
            identity=file_identity([self.path]),
            height=h,
            width=w,
            time_base=time_base,
            rate=rate,
            frames=self._expected_frames(file, stream, rate),
            zero=origin + options.begin,
            color=_color_of(picture),
            aspect=aspect if aspect and aspect != 1 else None,
            alpha=self.keeps_alpha and has_alpha(picture),
            notes=_lost_properties(stream, picture, orientation),
        )

    def _expected_frames(
        self, file: InputContainer, stream: VideoStream, rate: Fraction
    ) -> int | None:
        """Return the probable number of frames in the output, or None for an unknown length."""
        options = self.options
        if stream.frames and rate == self.rate and options.start is options.end is None:
            return stream.frames
        if stream.duration:
            seconds = stream.duration * self.fineness * self.time_base
        elif file.duration:
            seconds = file.duration * MICROSECOND
        else:
            return None
        rest = seconds - options.begin
        return max(0, round((rest if options.length is None else min(rest, options.length)) * rate))

    def _to_upright_rgb(self, picture: VideoFrame) -> tuple[Rgb, Alpha | None]:
        """Return a picture as RGB, in the size and orientation of the clip.

        With it comes its alpha, where the output holds it.
        """
        from av.video.reformatter import Interpolation

        orientation = find_orientation(picture)
        h, w = self.clip.height, self.clip.width
        # Resizing comes before turning, so the size is that of the stored picture.
        if orientation is not None and orientation.transposed:
            h, w = w, h
        same = (h, w) == (picture.height, picture.width)
        self.losses.resized += (picture.width, picture.height) != self.stored_size
        self.losses.metadata |= {METADATA[name] for name in METADATA if _side_data(picture, name)}
        transparent = has_alpha(picture)
        # Without exact rounding and chroma at full width libswscale darkens 4:2:0 by 1 level of 255
        # (docs/log/video.md).
        exact = (
            Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
        )
        converted = self.reformatter.reformat(
            picture,
            w,
            h,
            "rgba" if transparent else "rgb24",
            src_colorspace=yuv_matrix(picture.colorspace, picture.height, picture.width),
            interpolation=exact | (Interpolation.BILINEAR if same else Interpolation.BICUBIC),
            threads=self.options.threads,
        )
        pixels = np.asarray(converted.to_ndarray(), np.uint8)
        if orientation is not None:
            pixels = np.ascontiguousarray(orientation.apply(pixels))
        if not transparent:
            return pixels, None
        if self.clip.alpha:
            return split_alpha(pixels)
        return self.losses.lay_on_white(pixels), None


def make_rate_constant(timed: Iterable[TimedPicture], step: Fraction) -> Iterator[TimedPicture]:
    """Repeat and leave out pictures so that there is one for each new tick.

    `step` is the number of new ticks in an old one.
    """
    held: TimedPicture | None = None
    tick = 0  # the next new tick to fill
    least = 0  # the first picture fills at least the ticks before this one
    for one in chain(timed, [None]):
        if held is not None:
            # A picture is shown until the next one starts; the last one for its own duration.
            end = _round_half_up((held.pts + held.duration if one is None else one.pts) * step)
            for pts in range(tick, max(end, least)):
                yield TimedPicture(held.picture, pts, 1)
            tick = max(tick, end, least)
        elif one is not None:
            tick = _round_half_up(one.pts * step)
            least = tick + 1  # even the shortest clip has one frame
        held = one


def _side_data(picture: VideoFrame, name: str) -> Buffer | None:
    """Return what a picture carries under a name of `av.sidedata.sidedata.Type`, or None."""
    from av.sidedata.sidedata import Type

    return cast("Mapping[Type, Buffer]", picture.side_data).get(Type[name])


def find_orientation(picture: VideoFrame) -> Orientation | None:
    """Return how a picture becomes upright, by its display matrix; None when it is upright."""
    matrix = _side_data(picture, "DISPLAYMATRIX")
    if matrix is None:
        return None
    # The point (x, y) of the stored picture is shown at (ax + cy, bx + dy).
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    transposed = abs(b) > abs(a)
    upside_down = (b if transposed else d) < 0
    mirrored = (c if transposed else a) < 0
    if not any((transposed, upside_down, mirrored)):
        return None
    return Orientation(transposed, upside_down, mirrored)


def _color_of(picture: VideoFrame) -> Color:
    """Return the colour properties of a decoded picture."""
    format = picture.format
    if format.is_rgb or format.has_palette:
        return Color(space=RGB)
    # The yuvj formats are full range by definition, whatever the stream says.
    range = FULL if format.name.startswith("yuvj") else picture.color_range
    return Color(range, picture.colorspace, picture.color_primaries, picture.color_trc)


def has_alpha(picture: VideoFrame) -> bool:
    """Return whether a picture can have transparent pixels."""
    format = picture.format
    return format.has_palette or any(component.is_alpha for component in format.components)


def _lost_properties(
    stream: VideoStream, picture: VideoFrame, orientation: Orientation | None
) -> tuple[str, ...]:
    """Return notes on the properties of the source that 8-bit upright RGB cannot hold."""
    components = picture.format.components
    notes = []
    if orientation is not None:
        notes.append(
            "frames are turned upright; the file's rotation is applied, not kept as metadata"
        )
    bits = max(component.bits for component in components)
    if bits > 8:
        notes.append(f"{bits} bits a channel are reduced to 8")
    if is_tagged_with_alpha(stream) and not has_alpha(picture):
        notes.append("alpha is left out: colours that it hid are shown")
    return tuple(notes)


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
