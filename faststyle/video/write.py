"""Encode frames into segments, each with an encoder of its own, so that each is whole and none
depends on another.

What it is not: sound, and putting segments together, which mux.py does.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faststyle.errors import did_you_mean
from faststyle.video.frames import (
    BT709,
    FULL,
    LIMITED,
    MATRICES,
    RGB,
    UNSPECIFIED,
    Clip,
    Color,
    Frame,
    Rgb,
    yuv_matrix,
)
from faststyle.video.options import Container, VideoError, VideoOptions, file_url

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

QUANTISER = "3"  # of encoders without CRF, from 1, the best, to 31
# pictures that were RGB: BT.709 with the curve of sRGB
SRGB = Color(LIMITED, BT709, primaries=1, transfer=13)


@dataclass(frozen=True)
class Coding:
    """How pictures are encoded.

    `quality` and `preset` name the encoder's options for them, where it has any. `even`: it takes
    even sizes only. `full`: it can say that levels are 0-255; what cannot is given 16-235. `least`
    is the shortest side that it takes.
    """

    encoder: str
    format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    quality: tuple[str, ...] = ()
    preset: str | None = None
    even: bool = False
    full: bool = False
    least: int = 1


# Qualities that look as the frames do, presets that keep up with a network.
CODINGS = {
    "h264": Coding(
        "libx264",
        options={"crf": "18", "preset": "superfast"},
        quality=("crf",),
        preset="preset",
        even=True,
        full=True,
    ),
    "hevc": Coding(
        "libx265",
        options={"crf": "22", "preset": "superfast", "x265-params": "log-level=none"},
        quality=("crf",),
        preset="preset",
        even=True,
        full=True,
        # pixels, of one coding tree unit: 48 across corrupted the memory of the process, in x265 of
        # PyAV 18
        least=64,
    ),
    "vp9": Coding(
        "libvpx-vp9",
        options={"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
        quality=("crf",),
        preset="cpu-used",
        full=True,
    ),
    "av1": Coding(
        "libsvtav1",
        options={"crf": "28", "preset": "10"},
        quality=("crf",),
        preset="preset",
        full=True,
    ),
    "prores": Coding("prores_ks", "yuv422p10le", {"profile": "hq"}, preset="profile"),
}
LOSSLESS = Coding("ffv1", "bgr0")  # what GIF and pictures are made from at the end
LOSSLESS_FORMAT = "matroska"


@dataclass(frozen=True)
class Segment:
    """A piece of the output: a file, and its times in ticks of the clip.

    `start` and `last` are those of its first and its last frame, `end` is when that one ends.
    `delay` is by how many frames decoding runs ahead of showing.
    """

    file: str
    start: int
    last: int
    end: int
    frames: int
    delay: int


class SegmentEncoder:
    """Writes segments of a clip for a container; `notes` says what of the clip the codec cannot
    hold.

    Raises: VideoError, before anything is written, for a codec that is not there, or not for this
    container.
    """

    def __init__(self, clip: Clip, options: VideoOptions, container: Container) -> None:
        from av.video.reformatter import VideoReformatter

        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells of itself on stderr, but for errors
        self.clip = clip
        self.threads = options.threads or 0
        self.coding = find_coding(options, container)
        self.format = LOSSLESS_FORMAT if self.coding is LOSSLESS else container.format
        self.color = _output_color(clip.color, self.coding)
        self.reformatter = VideoReformatter()
        grain = 2 if self.coding.even else 1
        self.height, self.width = (side + -side % grain for side in (clip.height, clip.width))
        if min(self.height, self.width) < self.coding.least:
            raise VideoError(
                f"{self.coding.encoder} takes sides of {self.coding.least} pixels or more, not "
                f"{self.width}x{self.height}; use another --codec, or a larger --size"
            )
        self.notes = []
        if (self.height, self.width) != (clip.height, clip.width):
            self.notes.append(
                f"{clip.width}x{clip.height} becomes {self.width}x{self.height}, its last row or column repeated: "
                f"{self.coding.encoder} takes even sizes only"
            )
        if self.color.range == LIMITED and clip.color.range == FULL:
            self.notes.append(
                f"levels of 0-255 become 16-235: {self.coding.encoder} cannot say that they are full"
            )
        with _open(io.BytesIO(), self.format) as file:
            self._add_stream(file)

    def write(self, path: Path, frames: Iterable[Frame]) -> Segment:
        """Encode frames into a file of their own, whose times start at 0. Raises: OSError."""
        times: list[int] = []  # of frames, as they are shown
        durations: dict[int, int] = {}  # by time from the start
        order: list[int] = []  # times of packets from the start, as they are decoded
        with _open(file_url(path), self.format) as file:
            stream = self._add_stream(file)

            def mux(packets: Iterable[Packet[VideoStream]]) -> None:
                for packet in packets:
                    pts = packet.pts or 0
                    order.append(pts)
                    packet.duration = durations.get(pts, packet.duration)
                    file.mux(packet)

            for frame in frames:
                times.append(frame.pts)
                durations[frame.pts - times[0]] = frame.duration
                mux(stream.encode(self._picture(frame, start=times[0])))
            mux(stream.encode())
        rank = {pts: i for i, pts in enumerate(sorted(order))}
        delay = max(i - rank[pts] for i, pts in enumerate(order))
        end = times[-1] + durations[times[-1] - times[0]]
        return Segment(path.name, times[0], times[-1], end, len(times), delay)

    def _picture(self, frame: Frame, start: int) -> VideoFrame:
        """Return a frame as the encoder takes it."""
        from av import VideoFrame
        from av.video.reformatter import Interpolation

        h, w = frame.rgb.shape[:2]
        rgb: Rgb = np.pad(
            frame.rgb, ((0, self.height - h), (0, self.width - w), (0, 0)), mode="edge"
        )
        picture = self.reformatter.reformat(
            VideoFrame.from_ndarray(rgb, "rgb24"),
            format=self.coding.format,
            dst_colorspace=yuv_matrix(self.color.space, h, w),
            dst_color_range=self.color.range or LIMITED,
            interpolation=Interpolation.BILINEAR
            | Interpolation.ACCURATE_RND
            | Interpolation.FULL_CHR_H_INP,
            threads=self.threads,
        )
        picture.pts = frame.pts - start
        picture.time_base = self.clip.time_base
        picture.color_primaries = self.color.primaries
        picture.color_trc = self.color.transfer
        return picture

    def _add_stream(self, file: OutputContainer) -> VideoStream:
        """Add an open encoder to a file. Raises: VideoError when one does not take the other."""
        from av.error import FFmpegError

        coding = self.coding
        clip = self.clip
        try:
            stream: VideoStream = file.add_stream(
                coding.encoder,
                rate=clip.rate,
                options=dict(coding.options),
                width=self.width,
                height=self.height,
                pix_fmt=coding.format,
                time_base=clip.time_base,
            )  # type: ignore[assignment]
        except ValueError:
            takes = ", ".join(
                name for name in CODINGS if CODINGS[name].encoder in file.supported_codecs
            )
            raise VideoError(
                f"{self.format} does not take {coding.encoder}; it takes {takes}"
            ) from None
        stream.time_base = clip.time_base
        context = stream.codec_context
        context.color_range = self.color.range
        context.colorspace = self.color.space
        context.color_primaries = self.color.primaries
        context.color_trc = self.color.transfer
        context.thread_count = self.threads
        if clip.aspect is not None:
            context.sample_aspect_ratio = clip.aspect
        try:
            context.open()
        except (FFmpegError, ValueError) as error:
            settings = " ".join(f"{k}={v}" for k, v in coding.options.items())
            raise VideoError(
                f"{coding.encoder} refuses {self.width}x{self.height} {coding.format} {settings} "
                f"({getattr(error, 'strerror', error)})"
            ) from error
        return stream


def find_coding(options: VideoOptions, container: Container) -> Coding:
    """Return how pictures are encoded for `container`. Raises: VideoError for a codec or preset that is not there."""
    if container.codec is None:
        if (options.codec, options.quality, options.preset) != (None, None, None):
            raise VideoError(
                f"--codec, --quality and --preset are for video files, not for {container.format}"
            )
        return LOSSLESS
    name = options.codec or container.codec
    coding = CODINGS.get(name) or Coding(name)
    if not _is_encoder(coding.encoder):
        raise VideoError(
            f"--codec {name}: not in this build of FFmpeg.{did_you_mean(name, _encoders(container))}"
        )
    if name not in CODINGS:
        coding = _plain_coding(name)
    chosen = dict(coding.options)
    if options.quality is not None:
        if not coding.quality:
            raise VideoError(f"--quality {options.quality:g}: {name} has none; it has --preset")
        chosen |= dict.fromkeys(coding.quality, f"{options.quality:g}")
    if options.preset is not None:
        if coding.preset is None:
            raise VideoError(f"--preset {options.preset}: {name} has none; it has --quality")
        chosen[coding.preset] = options.preset
    return replace(coding, options=chosen)


def _plain_coding(name: str) -> Coding:
    """Return a coding for an encoder that is not in the table."""
    import av
    from av.codec.codec import Capabilities, find_best_pix_fmt_of_list

    context = av.CodecContext.create(name, "w")
    format, _ = find_best_pix_fmt_of_list(context.codec.video_formats or ["yuv420p"], "yuv420p")
    own = {option.name for option in context.supported_options.private}
    quality = ("crf",) if "crf" in own else ("qmin", "qmax")
    # What runs in hardware knows better than a constant quantiser.
    plain = "crf" not in own and not context.codec.capabilities & Capabilities.hardware
    return Coding(
        name,
        "yuv420p" if format is None else format.name,
        dict.fromkeys(quality, QUANTISER) if plain else {},
        quality=quality,
        preset="preset" if "preset" in own else None,
        even=True,
    )


def _output_color(color: Color, coding: Coding) -> Color:
    """Return how the numbers of the output are meant: as in the input, where the codec can hold it."""
    from av import VideoFormat

    if VideoFormat(coding.format).is_rgb:
        return Color(space=RGB)
    if color.space == RGB:
        color = SRGB
    # converted with another matrix, for want of its own
    if color.space not in (*MATRICES, UNSPECIFIED):
        color = replace(color, space=BT709)
    if coding.format.startswith("yuvj"):
        return replace(color, range=FULL)
    return replace(color, range=LIMITED) if color.range == FULL and not coding.full else color


def _encoders(container: Container) -> list[str]:
    """Return the codecs of this build of FFmpeg that go into a container, each once."""
    with _open(io.BytesIO(), container.format) as file:
        takes = file.supported_codecs
    ours = {name for name, coding in CODINGS.items() if coding.encoder in takes}
    return sorted(ours | set(filter(_is_encoder, takes)))


def _is_encoder(name: str) -> bool:
    import av

    try:
        return av.Codec(name, "w").type == "video"
    except ValueError:
        return False


def _open(file: str | io.BytesIO, format: str) -> OutputContainer:
    import av

    return av.open(file, "w", format=format)
