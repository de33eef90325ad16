"""Put segments and the source's other tracks into one file: copied where the container takes them,
else converted.

What it is not: encoding of frames, which is done when it begins.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from faststyle.video.frames import Clip
from faststyle.video.options import Container, file_url
from faststyle.video.parts import Parts
from faststyle.video.read import MICROSECOND, find_stream, open_input, read_packets

if TYPE_CHECKING:
    from av import Packet
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream

    Convert = Callable[[Packet[Stream] | None], list[Packet[Any]]]  # None at the end

# a second and channel, of sound that is encoded again: few hear it, of AAC or Opus
AUDIO_BITS = 96_000
OPUS_RATE = 48_000  # samples a second, which encoders take that do not take all rates
TIMESCALE = 90_000  # ticks a second at least, of MP4
MARGIN = 10  # seconds by which tracks may be apart in a file
# seconds without sound that stay; less is the rounding of containers that count milliseconds
HOLE = 0.05
NAMED_CHANNELS = range(1, 9)  # numbers of channels that have usual names
KEPT_TAGS = ("language", "title")
# which the muxer writes itself
OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
CHAPTER_TRACK = "bin_data"  # how FFmpeg shows what MP4 keeps chapters in


@dataclass(frozen=True)
class Cut:
    """What part of a source is taken: from `zero`, seconds of its own clock, for `length` seconds,
    None to its end.

    `whole`: nothing is left out at the beginning, sound from before the first frame neither.
    """

    zero: Fraction
    length: Fraction | None
    whole: bool

    def takes(self, time: Fraction) -> bool:
        """Return whether what starts at `time`, seconds of the source's clock, is inside."""
        return (self.whole or time >= self.zero) and (
            self.length is None or time - self.zero < self.length
        )


def mux(
    path: Path,
    parts: Parts,
    clip: Clip,
    container: Container,
    cut: Cut,
    tracks: bool,
    check: Callable[[], None],
) -> list[str]:
    """Write segments, and all tracks of the clip's file if it has `tracks`; return what could not
    be copied.

    `check` is called for each packet, and may raise. Raises: OSError when there is no room.
    """
    import av

    options = dict(container.options)
    mp4 = container.format in ("mp4", "mov")
    # how finely the delay of a track can be said: in its frames, and about as well as its sound
    # needs
    if mp4:
        frames = clip.time_base.denominator
        options["movie_timescale"] = str(frames * math.ceil(TIMESCALE / frames))
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_input(clip.path)) if tracks else None
        first = stack.enter_context(open_input(parts.paths()[0]))
        output = stack.enter_context(
            av.open(file_url(path), "w", format=container.format, container_options=options)
        )
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
        stream.time_base = clip.time_base
        if mp4 and stream.codec_context.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # QuickTime and Safari play no other
        packets: list[Iterator[Packet[Any]]] = [_video_packets(stream, parts, clip)]
        if source is not None:
            copy_tags(source, output, cut)
            _copy_stream_tags(find_stream(source, clip.path), stream)
            packets.append(
                _track_packets(
                    source, _add_tracks(source, output, clip, container, cut, notes), cut
                )
            )
        # By time: the muxer holds the packets of one track until those of the others come.
        for packet in heapq.merge(*packets, key=_decoding_time):
            check()
            output.mux(packet)
    return notes


def describe_tracks(path: Path) -> list[str]:
    """Return the names of all tracks but the one that is stylized."""
    with open_input(path) as source:
        return [name for _, name in _other_tracks(source, path)]


def copy_tags(source: InputContainer, output: OutputContainer, cut: Cut) -> None:
    """Copy metadata, and the chapters that are inside."""
    output.metadata.update({k: v for k, v in source.metadata.items() if k.lower() not in OWN_TAGS})
    chapters = []
    for chapter in source.chapters():
        step = chapter["time_base"] or MICROSECOND
        start, end = chapter["start"] * step - cut.zero, chapter["end"] * step - cut.zero
        start, end = max(start, Fraction(0)), end if cut.length is None else min(end, cut.length)
        if start < end:
            chapters.append({**chapter, "start": round(start / step), "end": round(end / step)})
    output.set_chapters(cast("Any", chapters))


def _video_packets(stream: VideoStream, parts: Parts, clip: Clip) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments with their times in the clip.

    Decoding times are made anew, as segments overlap in theirs: packet i is decoded when frame i -
    delay is shown.
    """
    delay = max(segment.delay for segment in parts.segments)
    frame = max(1, round(1 / (clip.rate * clip.time_base)))
    before = [parts.segments[0].start - i * frame for i in range(delay, 0, -1)]
    for segment, path in zip(parts.segments, parts.paths(), strict=True):
        with open_input(path) as file:
            step = (file.streams.video[0].time_base or clip.time_base) / clip.time_base
            packets = [
                packet for packet in read_packets(file, [file.streams.video[0]]) if packet.size
            ]
        shown = [segment.start + round((packet.pts or 0) * step) for packet in packets]
        times = sorted(shown)
        until = dict(zip(times, [*times[1:], segment.end], strict=True))
        times = before + times
        for packet, pts, dts in zip(packets, shown, times, strict=False):
            packet.pts = pts
            packet.dts = dts
            packet.duration = until[pts] - pts
            packet.time_base = clip.time_base
            packet.stream = stream
            yield packet
        before = times[len(packets) :]


def _track_packets(
    source: InputContainer, converts: dict[int, Convert], cut: Cut
) -> Iterator[Packet[Any]]:
    from av.error import FFmpegError

    if not converts:
        return
    if not cut.whole and cut.zero > MARGIN:
        with contextlib.suppress(FFmpegError):  # what cannot seek is read from its beginning
            source.seek(int((cut.zero - MARGIN) / MICROSECOND))
    for packet in read_packets(source, [source.streams[index] for index in converts]):
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None:  # the end of a track
            continue
        time = ticks * packet.time_base
        if cut.takes(time):
            yield from converts[packet.stream.index](packet)
        elif cut.length is not None and time > cut.zero + cut.length + MARGIN:
            break
    for convert in converts.values():
        yield from convert(None)


def _add_tracks(
    source: InputContainer,
    output: OutputContainer,
    clip: Clip,
    container: Container,
    cut: Cut,
    notes: list[str],
) -> dict[int, Convert]:
    """Add what the container can hold of all other tracks; return what becomes of their packets, by number."""
    converts: dict[int, Convert] = {}
    for stream, name in _other_tracks(source, clip.path):
        kept = ("audio", "subtitle") + ("attachment",) * (container.format == "matroska")
        if stream.type in kept and _takes(container.format, stream):
            converts[stream.index] = _copy(stream, output, cut.zero)
            continue
        codec = {"audio": container.audio, "subtitle": container.text}.get(stream.type)
        if codec is None or stream.codec_context is None:
            notes.append(f"{name} is left out: {container.format} does not take it")
        elif stream.type == "audio":
            converts[stream.index] = _encode_audio(
                cast("AudioStream", stream), output, codec, cut.zero
            )
            notes.append(f"{name} is encoded again as {codec}: {container.format} does not take it")
        elif stream.codec_context.codec.text_sub:
            converts[stream.index] = _encode_text(
                cast("SubtitleStream", stream), output, codec, cut.zero
            )
            notes.append(f"{name} is converted to {codec}: {container.format} does not take it")
        else:
            notes.append(f"{name} is left out: its pictures cannot become {codec}")
    return converts


def _other_tracks(source: InputContainer, path: Path) -> Iterator[tuple[Stream, str]]:
    """Yield all tracks but the one that is stylized, with names such as "audio track 1 (aac)"."""
    shown = find_stream(source, path).index
    seen = Counter[str]()
    for stream in source.streams:
        seen[stream.type] += 1
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else stream.name
        if stream.index != shown and not (codec == CHAPTER_TRACK and source.chapters()):
            yield stream, f"{stream.type} track {seen[stream.type]} ({codec})"


def _takes(format: str, stream: Stream) -> bool:
    """Return whether a container takes a stream as it is: tried out, as no table says it all."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            _add_copy(stream, trial)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _copy(stream: Stream, output: OutputContainer, zero: Fraction) -> Convert:
    copied = _add_copy(stream, output)
    shift = round(zero / (stream.time_base or MICROSECOND))
    last: int | None = None

    def convert(packet: Packet[Stream] | None) -> list[Packet[Any]]:
        if packet is None:
            return []
        nonlocal last
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:
            # Damaged or badly cut files go back in time, which no muxer takes.
            packet.dts = packet.dts - shift if last is None else max(packet.dts - shift, last + 1)
            last = packet.dts
            packet.pts = last if packet.pts is None else max(packet.pts, last)
        packet.stream = copied
        return [packet]

    return convert


def _add_copy(stream: Stream, output: OutputContainer) -> Stream:
    copied = output.add_stream_from_template(stream)
    if stream.type == "audio":  # some files count their channels only, and MP4 wants names
        cast("AudioStream", copied).codec_context.layout = _layout(cast("AudioStream", stream))
    _copy_stream_tags(stream, copied)
    return copied


def _layout(stream: AudioStream) -> str:
    """Return the names of a stream's channels, the usual ones where it has none."""
    name = stream.layout.name
    return name.replace(" channels", "c") if stream.channels in NAMED_CHANNELS else name


def _encode_audio(
    stream: AudioStream, output: OutputContainer, codec: str, zero: Fraction
) -> Convert:
    import av
    from av.error import FFmpegError

    rates = av.Codec(codec, "w").audio_rates or [stream.rate]
    rate = stream.rate if stream.rate in rates else OPUS_RATE
    name = _layout(stream)
    # Opus knows 5.1, not 5.1(side), and of the rarer ones nothing.
    layout = next(
        x for x in (name, name.split("(")[0], "stereo") if x == "stereo" or _encodes(codec, rate, x)
    )
    encoded = cast("AudioStream", output.add_stream(codec, rate=rate, layout=layout))
    encoded.bit_rate = AUDIO_BITS * encoded.channels
    _copy_stream_tags(stream, encoded)
    clock: int | None = None  # when the next frame starts, in samples

    def convert(packet: Packet[Stream] | None) -> list[Packet[Any]]:
        nonlocal clock
        packets: list[Packet[Any]] = []
        # what is damaged is left out; the rest keeps its time
        with contextlib.suppress(FFmpegError):
            for frame in stream.decode(packet):
                if frame.pts is not None and frame.time_base is not None:
                    start = round((frame.pts * frame.time_base - zero) * frame.sample_rate)
                    clock = (
                        start
                        if clock is None or start > clock + HOLE * frame.sample_rate
                        else clock
                    )
                frame.pts = clock or 0
                frame.time_base = Fraction(1, frame.sample_rate)
                clock = frame.pts + frame.samples
                packets += encoded.encode(frame)
        return packets if packet is not None else packets + encoded.encode(None)

    return convert


def _encodes(codec: str, rate: int, layout: str) -> bool:
    import av
    from av.error import FFmpegError

    trial = cast("AudioCodecContext", av.CodecContext.create(codec, "w"))
    trial.rate = rate
    trial.layout = layout
    trial.format = (trial.codec.audio_formats or [av.AudioFormat("s16")])[0]
    try:
        trial.open()
    except FFmpegError:
        return False
    return True


def _encode_text(
    stream: SubtitleStream, output: OutputContainer, codec: str, zero: Fraction
) -> Convert:
    from av.error import FFmpegError

    encoded = cast("SubtitleStream", output.add_stream(codec))
    encoded.time_base = stream.time_base
    stream.codec_context.open(strict=False)  # which makes its header
    encoded.codec_context.subtitle_header = stream.codec_context.subtitle_header
    _copy_stream_tags(stream, encoded)
    shift = round(zero / (stream.time_base or MICROSECOND))

    def convert(packet: Packet[Stream] | None) -> list[Packet[Any]]:
        if packet is None:
            return []
        try:
            decoded = stream.decode2(packet)
        except FFmpegError:
            decoded = None
        if decoded is None:  # MP4 fills the time between two texts with empty ones
            return []
        text = encoded.codec_context.encode_subtitle(decoded)
        text.pts = text.dts = (packet.pts or 0) - shift
        text.duration = packet.duration
        text.time_base = packet.time_base
        text.stream = encoded
        return [text]

    return convert


def _copy_stream_tags(stream: Stream, copied: Stream) -> None:
    """Copy what a person chose for a track."""
    copied.metadata.update({k: v for k, v in stream.metadata.items() if k in KEPT_TAGS})
    copied.disposition = stream.disposition


def _decoding_time(packet: Packet[Any]) -> float:
    ticks = packet.pts if packet.dts is None else packet.dts
    return float((ticks or 0) * packet.time_base)
