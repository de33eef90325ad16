"""Encode frames into segments. Each has an encoder of its own, so that none depends on another.

Sound is added, and segments are joined, in mux.py.
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
    yuv_matrix,
)
from faststyle.video.options import Container, VideoError, VideoOptions, file_url

if TYPE_CHECKING:
    from av import Packet, VideoFormat, VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

DEFAULT_QUANTISER = "3"  # for encoders without CRF: from 1, the best, to 31
# The output colours of an RGB source: BT.709 with the curve of sRGB (transfer 13).
SRGB = Color(LIMITED, BT709, primaries=1, transfer=13)


@dataclass(frozen=True)
class EncoderSettings:
    """The settings of one of FFmpeg's encoders.

    `format` is the pixel format, `options` are FFmpeg's. `quality` and `preset` name the encoder's
    options that set these, where it has any. An encoder with `even_sizes` takes no odd width or
    height. One with `full_range` can store that levels are 0-255; others get levels of 16-235.
    `min_side` is the shortest side that it takes, in pixels. `alpha` is the pixel format with
    transparent pixels, None for an encoder that has none, and `alpha_options` are what it needs.
    """

    encoder: str
    format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    quality: tuple[str, ...] = ()
    preset: str | None = None
    even_sizes: bool = False
    full_range: bool = False
    min_side: int = 1
    alpha: str | None = None
    alpha_options: dict[str, str] = field(default_factory=dict)


# By these qualities frames look as the network painted them. By these presets encoding keeps up
# with the network.
CODECS = {
    "h264": EncoderSettings(
        "libx264",
        options={"crf": "18", "preset": "superfast"},
        quality=("crf",),
        preset="preset",
        even_sizes=True,
        full_range=True,
    ),
    "hevc": EncoderSettings(
        "libx265",
        options={"crf": "22", "preset": "superfast", "x265-params": "log-level=none"},
        quality=("crf",),
        preset="preset",
        even_sizes=True,
        full_range=True,
        # One coding tree unit. With a width of 48, x265 in PyAV 18 corrupted the process's memory.
        min_side=64,
    ),
    "vp9": EncoderSettings(
        "libvpx-vp9",
        options={"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
        quality=("crf",),
        preset="cpu-used",
        full_range=True,
        alpha="yuva420p",
    ),
    "av1": EncoderSettings(
        "libsvtav1",
        options={"crf": "28", "preset": "10"},
        quality=("crf",),
        preset="preset",
        full_range=True,
    ),
    "prores": EncoderSettings(
        "prores_ks",
        "yuv422p10le",
        {"profile": "hq"},
        preset="profile",
        alpha="yuva444p10le",
        alpha_options={"profile": "4444"},
    ),
}
# For segments that become a GIF or pictures.
LOSSLESS = EncoderSettings("ffv1", "bgr0", alpha="bgra")
LOSSLESS_CONTAINER = "matroska"


@dataclass(frozen=True)
class Segment:
    """A part of the output: a file, and its times in ticks of the clip.

    `start` and `last` are the times at which its first and its last frame start. `end` is the time
    at which the last frame ends. `delay` is the number of frames by which decoding runs ahead of
    showing.
    """

    file: str
    start: int
    last: int
    end: int
    frames: int
    delay: int


class SegmentEncoder:
    """Writes segments of a clip for a container.

    `notes` name the properties of the clip that the codec cannot hold.

    Raises: VideoError, before anything is written, for a codec that FFmpeg does not have or that
    the container does not take.
    """

    def __init__(self, clip: Clip, options: VideoOptions, container: Container) -> None:
        from av.video.reformatter import VideoReformatter

        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints errors only, no banner
        self.clip = clip
        self.threads = options.threads or 0
        settings = find_settings(options, container)
        self.format = LOSSLESS_CONTAINER if settings is LOSSLESS else container.format
        self.settings = _with_alpha(settings) if clip.alpha else settings
        self.color = _output_color(clip.color, self.settings)
        self.reformatter = VideoReformatter()
        multiple = 2 if self.settings.even_sizes else 1
        self.height, self.width = (side + -side % multiple for side in (clip.height, clip.width))
        encoder = self.settings.encoder
        if min(self.height, self.width) < self.settings.min_side:
            raise VideoError(
                f"{encoder} takes sides of {self.settings.min_side} pixels or more, not "
                f"{self.width}x{self.height}; use another `codec`, or a larger `size`"
            )
        self.notes = []
        if (self.height, self.width) != (clip.height, clip.width):
            self.notes.append(
                f"{clip.width}x{clip.height} becomes {self.width}x{self.height}, "
                f"its last row or column repeated: {encoder} takes even sizes only"
            )
        if self.color.range == LIMITED and clip.color.range == FULL:
            self.notes.append(
                f"levels of 0-255 become 16-235: {encoder} cannot store that they are full"
            )
        # A trial in memory finds settings that the encoder or the container refuses.
        with _open_output(io.BytesIO(), self.format) as file:
            self._add_stream(file)

    def write(self, path: Path, frames: Iterable[Frame]) -> Segment:
        """Encode frames into a file of their own, whose times start at 0. Raises: OSError."""
        starts: list[int] = []  # of the frames, in the clip
        durations: dict[int, int] = {}  # of the frames, by their time in this file
        packet_times: list[int] = []  # in this file, in decoding order
        with _open_output(file_url(path), self.format) as file:
            stream = self._add_stream(file)

            def mux(packets: Iterable[Packet[VideoStream]]) -> None:
                for packet in packets:
                    pts = packet.pts or 0
                    packet_times.append(pts)
                    # The encoder does not know how long each frame lasts.
                    packet.duration = durations.get(pts, packet.duration)
                    file.mux(packet)

            for frame in frames:
                starts.append(frame.pts)
                durations[frame.pts - starts[0]] = frame.duration
                mux(stream.encode(self._picture(frame, start=starts[0])))
            mux(stream.encode())
        # With B-frames a packet may be decoded earlier than its place in showing order.
        rank = {pts: i for i, pts in enumerate(sorted(packet_times))}
        delay = max(i - rank[pts] for i, pts in enumerate(packet_times))
        end = starts[-1] + durations[starts[-1] - starts[0]]
        return Segment(path.name, starts[0], starts[-1], end, len(starts), delay)

    def _picture(self, frame: Frame, start: int) -> VideoFrame:
        """Return a frame in the format of the encoder, with its time after tick `start`."""
        from av import VideoFrame
        from av.video.reformatter import Interpolation

        h, w = frame.rgb.shape[:2]
        # Odd sizes grow by a row or column, for encoders that take even sizes only.
        pixels = frame.rgb
        if frame.alpha is not None:
            pixels = np.dstack([frame.rgb, frame.alpha])
        padded = np.pad(pixels, ((0, self.height - h), (0, self.width - w), (0, 0)), mode="edge")
        picture = self.reformatter.reformat(
            VideoFrame.from_ndarray(padded, "rgb24" if frame.alpha is None else "rgba"),
            format=self.settings.format,
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
        """Add a stream with an open encoder to a file.

        Raises: VideoError when the file does not take the encoder, or the encoder its settings.
        """
        from av.error import FFmpegError

        settings = self.settings
        clip = self.clip
        try:
            stream: VideoStream = file.add_stream(
                settings.encoder,
                rate=clip.rate,
                options=dict(settings.options),
                width=self.width,
                height=self.height,
                pix_fmt=settings.format,
                time_base=clip.time_base,
            )  # type: ignore[assignment]
        except ValueError:
            accepted = ", ".join(
                name for name, known in CODECS.items() if known.encoder in file.supported_codecs
            )
            raise VideoError(
                f"{self.format} does not take {settings.encoder}; it takes {accepted}"
            ) from None
        stream.time_base = clip.time_base
        tag_alpha(stream, clip)
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
            listed = " ".join(f"{k}={v}" for k, v in settings.options.items())
            raise VideoError(
                f"{settings.encoder} refuses {self.width}x{self.height} {settings.format} {listed} "
                f"({getattr(error, 'strerror', error)})"
            ) from error
        return stream


def find_settings(options: VideoOptions, container: Container) -> EncoderSettings:
    """Return the encoder settings for `container`.

    Raises: VideoError for an unknown codec, or a quality or preset that the codec does not have.
    """
    if container.codec is None:
        if (options.codec, options.quality, options.preset) != (None, None, None):
            raise VideoError(
                f"`codec`, `quality` and `preset` are for video files, not for {container.format}"
            )
        return LOSSLESS
    name = options.codec or container.codec
    settings = CODECS.get(name) or EncoderSettings(name)
    if not _is_encoder(settings.encoder):
        hint = did_you_mean(name, _accepted_codecs(container))
        raise VideoError(f"`codec` {name}: not in this build of FFmpeg.{hint}")
    if name not in CODECS:
        settings = _generic_settings(name)
    chosen = dict(settings.options)
    if options.quality is not None:
        if not settings.quality:
            raise VideoError(f"`quality` {options.quality:g}: {name} has none; it has `preset`")
        chosen |= dict.fromkeys(settings.quality, f"{options.quality:g}")
    if options.preset is not None:
        if settings.preset is None:
            raise VideoError(f"`preset` {options.preset}: {name} has none; it has `quality`")
        chosen[settings.preset] = options.preset
    return replace(settings, options=chosen)


def holds_alpha(options: VideoOptions, container: Container) -> bool:
    """Return whether the codec that is chosen holds alpha. Raises: VideoError as `find_settings`.

    A profile of ProRes that was asked for is kept, and not all of them hold it.
    """
    settings = find_settings(options, container)
    needed = settings.alpha_options
    return settings.alpha is not None and (
        options.preset is None or not needed or options.preset in needed.values()
    )


def tag_alpha(stream: VideoStream, clip: Clip) -> None:
    """Say that a stream holds alpha: Matroska and WebM tell it by a tag of VP8 and VP9."""
    if clip.alpha:
        stream.metadata["alpha_mode"] = "1"


def _with_alpha(settings: EncoderSettings) -> EncoderSettings:
    """Return the settings for frames with alpha."""
    format = settings.alpha or settings.format
    return replace(settings, format=format, options=settings.options | settings.alpha_options)


def _generic_settings(name: str) -> EncoderSettings:
    """Return settings for an encoder that is not in CODECS."""
    import av
    from av.codec.codec import Capabilities, find_best_pix_fmt_of_list

    context = av.CodecContext.create(name, "w")
    format, _ = find_best_pix_fmt_of_list(context.codec.video_formats or ["yuv420p"], "yuv420p")
    option_names = {option.name for option in context.supported_options.private}
    with_alpha = [f for f in context.codec.video_formats or [] if _holds_alpha(f)]
    alpha, _ = find_best_pix_fmt_of_list(with_alpha, "yuva420p", True)
    has_crf = "crf" in option_names
    quality = ("crf",) if has_crf else ("qmin", "qmax")
    # Hardware encoders choose better qualities themselves than a constant quantiser gives.
    is_hardware = context.codec.capabilities & Capabilities.hardware
    return EncoderSettings(
        name,
        "yuv420p" if format is None else format.name,
        {} if has_crf or is_hardware else dict.fromkeys(quality, DEFAULT_QUANTISER),
        quality=quality,
        preset="preset" if "preset" in option_names else None,
        even_sizes=True,
        alpha=None if alpha is None else alpha.name,
    )


def _holds_alpha(format: VideoFormat) -> bool:
    return any(component.is_alpha for component in format.components)


def _output_color(color: Color, settings: EncoderSettings) -> Color:
    """Return the colour properties of the output: the source's, where the codec can hold them."""
    from av import VideoFormat

    if VideoFormat(settings.format).is_rgb:
        return Color(space=RGB)
    if color.space == RGB:
        color = SRGB
    # libswscale has no matrix for this space, so the pixels are converted with that of BT.709.
    if color.space not in (*MATRICES, UNSPECIFIED):
        color = replace(color, space=BT709)
    if settings.format.startswith("yuvj"):
        return replace(color, range=FULL)
    if color.range == FULL and not settings.full_range:
        return replace(color, range=LIMITED)
    return color


def _accepted_codecs(container: Container) -> list[str]:
    """Return the codecs of this build of FFmpeg that a container takes, without repeats."""
    with _open_output(io.BytesIO(), container.format) as file:
        accepted = file.supported_codecs
    ours = {name for name, settings in CODECS.items() if settings.encoder in accepted}
    return sorted(ours | set(filter(_is_encoder, accepted)))


def _is_encoder(name: str) -> bool:
    """Return whether this build of FFmpeg has a video encoder of that name."""
    import av

    try:
        return av.Codec(name, "w").type == "video"
    except ValueError:
        return False


def _open_output(file: str | io.BytesIO, format: str) -> OutputContainer:
    import av

    return av.open(file, "w", format=format)
