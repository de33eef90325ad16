"""Put the segments and the source's other tracks into one file.

Tracks are copied where the container takes them, and converted where it does not. Frames were
encoded before, in write.py.
"""

from __future__ import annotations

import contextlib
import functools
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
from faststyle.video.streams import MICROSECOND, find_stream, open_input, read_packets
from faststyle.video.write import Segment, tag_alpha

if TYPE_CHECKING:
    from av import Packet
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream

    # Turns a packet of a source's track into packets for the output. None means the track's end.
    PacketConverter = Callable[[Packet[Stream] | None], list[Packet[Any]]]

# Bits a second for each channel of sound that is encoded again. Few people hear a loss in AAC or
# Opus at this rate.
AUDIO_BITS = 96_000
OPUS_RATE = 48_000  # samples a second; encoders with a fixed list of rates have this one
# Ticks by which rounding changes the length of a clip: half a one at its start, one at its end.
ROUNDED_TICKS = 2
MAX_DENOMINATOR = 100_000  # of an average rate; FFmpeg stores a fraction of two 32-bit numbers
MIN_TIMESCALE = 90_000  # ticks a second of MP4, at least
TRACK_MARGIN = 10  # seconds: how far apart in a file packets of the same time may be
# Seconds. A longer gap in the sound stays; a shorter one is the rounding of containers that count
# in milliseconds.
MIN_HOLE = 0.05
NAMED_CHANNELS = range(1, 9)  # numbers of channels for which FFmpeg has a usual layout
KEPT_TAGS = ("language", "title")
# Tags that the muxer writes itself.
MUXER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
CHAPTER_TRACK = "bin_data"  # FFmpeg's name for the track in which MP4 stores chapters


@dataclass(frozen=True)
class TimeSpan:
    """The part of a source that goes into the output.

    `zero` is its beginning in seconds on the source's own clock. `length` is in seconds, or None
    up to the end. With `from_start` it begins where the source does: sound from before the first
    frame is kept too.
    """

    zero: Fraction
    length: Fraction | None
    from_start: bool

    def contains(self, time: Fraction) -> bool:
        """Return whether `time`, in seconds on the source's clock, is inside."""
        return (self.from_start or time >= self.zero) and (
            self.length is None or time - self.zero < self.length
        )


def mux(
    path: Path,
    parts: Parts,
    clip: Clip,
    container: Container,
    span: TimeSpan,
    has_tracks: bool,
    raise_if_stopped: Callable[[], None],
) -> list[str]:
    """Write the segments, and the other tracks of the clip's file if it has any, to a new file.

    Return notes on the tracks that could not be copied. `raise_if_stopped` is called for each
    packet, and may raise.

    Raises: OSError when there is no room.
    """
    import av

    options = _muxer_options(container, clip)
    notes: list[str] = []
    lost = Counter[str]()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_input(clip.path)) if has_tracks else None
        first = stack.enter_context(open_input(parts.paths()[0]))
        output = stack.enter_context(
            av.open(file_url(path), "w", format=container.format, container_options=options)
        )
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
        stream.time_base = clip.time_base
        tag_alpha(stream, clip)
        # Matroska stores it, and readers take its word for the rate.
        stream.codec_context.framerate = average_rate(parts, clip)
        if _is_mp4(container) and stream.codec_context.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # the only tag that QuickTime and Safari play
        packets: list[Iterator[Packet[Any]]] = [_video_packets(stream, parts, clip)]
        if source is not None:
            copy_tags(source, output, span)
            _copy_stream_tags(find_stream(source, clip.path), stream)
            converters = _add_tracks(source, output, clip, container, span, notes, lost)
            packets.append(_track_packets(source, converters, span))
        # In order of time: else the muxer would hold all packets of one track in memory until
        # those of the others come.
        for packet in heapq.merge(*packets, key=_decoding_time):
            raise_if_stopped()
            output.mux(packet)
    notes += [f"{name}: {count} damaged packets are left out" for name, count in lost.items()]
    return notes


def describe_tracks(path: Path) -> list[str]:
    """Return the names of all tracks but the stylized one."""
    with open_input(path) as source:
        return [name for _, name in _other_tracks(source, path)]


def copy_tags(source: InputContainer, output: OutputContainer, span: TimeSpan) -> None:
    """Copy the metadata of a file, and its chapters as far as they are inside the span."""
    tags = {k: v for k, v in source.metadata.items() if k.lower() not in MUXER_TAGS}
    output.metadata.update(tags)
    chapters = []
    for chapter in source.chapters():
        step = chapter["time_base"] or MICROSECOND
        start = max(chapter["start"] * step - span.zero, Fraction(0))
        end = chapter["end"] * step - span.zero
        if span.length is not None:
            end = min(end, span.length)
        if start < end:
            chapters.append({**chapter, "start": round(start / step), "end": round(end / step)})
    output.set_chapters(cast("Any", chapters))


def _muxer_options(container: Container, clip: Clip) -> dict[str, str]:
    """Return FFmpeg's options for the muxer of a container."""
    options = dict(container.options)
    if _is_mp4(container):
        # MP4 counts the delay of each track in this unit. It must divide a tick of the frames, and
        # be fine enough for sound.
        ticks = clip.time_base.denominator
        options["movie_timescale"] = str(ticks * math.ceil(MIN_TIMESCALE / ticks))
    return options


def _is_mp4(container: Container) -> bool:
    return container.format in ("mp4", "mov")


def average_rate(parts: Parts, clip: Clip) -> Fraction:
    """Return the frames a second of the output, an average where its timing varies.

    Where it differs from the clip's rate by the rounding of times only, that rate is returned.
    """
    ticks = parts.segments[-1].end - parts.segments[0].start
    if abs(parts.frame_count / (clip.rate * clip.time_base) - ticks) <= ROUNDED_TICKS:
        return clip.rate
    return (parts.frame_count / (ticks * clip.time_base)).limit_denominator(MAX_DENOMINATOR)


def _video_packets(stream: VideoStream, parts: Parts, clip: Clip) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments with their times in the clip.

    Decoding times are made anew, because those of neighbouring segments overlap: packet i is
    decoded when frame i - delay is shown.
    """
    # The decoding times that are not used yet.
    waiting = _early_times(parts, clip)
    # A frame is shown until the next one starts, the last one of a segment too.
    ends = [*(segment.start for segment in parts.segments[1:]), parts.segments[-1].end]
    for segment, path, end in zip(parts.segments, parts.paths(), ends, strict=True):
        packets, shown, in_order = _read_segment(segment, path, clip)
        end_of = dict(zip(in_order, [*in_order[1:], end], strict=True))
        waiting += in_order
        for packet, pts, dts in zip(packets, shown, waiting, strict=False):
            packet.pts = pts
            packet.dts = dts
            packet.duration = end_of[pts] - pts
            packet.time_base = clip.time_base
            packet.stream = stream
            yield packet
        waiting = waiting[len(packets) :]


def _early_times(parts: Parts, clip: Clip) -> list[int]:
    """Return the decoding times of the packets that are decoded before any frame is shown.

    MP4 has no total but the sum of the steps between decoding times, and the last packet's
    duration. These times make the sum as long as the clip is shown.
    """
    delay = max(segment.delay for segment in parts.segments)
    if not delay:
        return []
    shown: list[int] = []  # the last times, in decoding order
    for segment, path in zip(reversed(parts.segments), reversed(parts.paths()), strict=True):
        shown = [*_read_segment(segment, path, clip)[1], *shown]
        if len(shown) > delay:
            break
    start = parts.segments[0].start
    in_order = [*sorted(shown), parts.segments[-1].end]
    duration = in_order[in_order.index(shown[-1]) + 1] - shown[-1]
    early = in_order[-1] - in_order[-2 - delay] - duration
    return [start - early + i * early // delay for i in range(delay)]


def _read_segment(
    segment: Segment, path: Path, clip: Clip
) -> tuple[list[Packet[Any]], list[int], list[int]]:
    """Return the packets of a segment, their times in the clip, and these times in order."""
    with open_input(path) as file:
        stream = file.streams.video[0]
        step = (stream.time_base or clip.time_base) / clip.time_base
        packets = [packet for packet in read_packets(file, [stream]) if packet.size]
    shown = [segment.start + round((packet.pts or 0) * step) for packet in packets]
    return packets, shown, sorted(shown)


def _track_packets(
    source: InputContainer, converters: dict[int, PacketConverter], span: TimeSpan
) -> Iterator[Packet[Any]]:
    """Yield the packets of the other tracks that are inside the span, copied or converted.

    `converters` are by the number of the source's track.
    """
    from av.error import FFmpegError

    if not converters:
        return
    if not span.from_start and span.zero > TRACK_MARGIN:
        with contextlib.suppress(FFmpegError):  # a file that cannot seek is read from the beginning
            source.seek(int((span.zero - TRACK_MARGIN) / MICROSECOND))
    for packet in read_packets(source, [source.streams[index] for index in converters]):
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None:  # the end of a track
            continue
        time = ticks * packet.time_base
        if span.contains(time):
            yield from converters[packet.stream.index](packet)
        # Tracks are not exactly side by side in a file, so reading goes on a little longer.
        elif span.length is not None and time > span.zero + span.length + TRACK_MARGIN:
            break
    for converter in converters.values():
        yield from converter(None)


def _add_tracks(
    source: InputContainer,
    output: OutputContainer,
    clip: Clip,
    container: Container,
    span: TimeSpan,
    notes: list[str],
    lost: Counter[str],
) -> dict[int, PacketConverter]:
    """Add the other tracks that the container can hold, and return their converters by number.

    A note is added for each track that is converted or left out. `lost` counts the packets of each
    track that cannot be converted.
    """
    converters: dict[int, PacketConverter] = {}
    for stream, name in _other_tracks(source, clip.path):
        damaged = functools.partial(lost.update, [name])
        copied = ("audio", "subtitle") + ("attachment",) * (container.format == "matroska")
        if stream.type in copied and _can_copy(container.format, stream):
            converters[stream.index] = _copy_track(stream, output, span.zero)
            continue
        codec = {"audio": container.audio, "subtitle": container.subtitles}.get(stream.type)
        if codec is None or stream.codec_context is None:
            notes.append(f"{name} is left out: {container.format} does not take it")
        elif stream.type == "audio":
            converters[stream.index] = _reencode_audio(
                cast("AudioStream", stream), output, codec, span.zero, damaged
            )
            notes.append(f"{name} is encoded again as {codec}: {container.format} does not take it")
        elif stream.codec_context.codec.text_sub:
            converters[stream.index] = _convert_subtitles(
                cast("SubtitleStream", stream), output, codec, span.zero, damaged
            )
            notes.append(f"{name} is converted to {codec}: {container.format} does not take it")
        else:
            # Subtitles of DVDs are pictures of text.
            notes.append(f"{name} is left out: its pictures cannot become {codec}")
    return converters


def _other_tracks(source: InputContainer, path: Path) -> Iterator[tuple[Stream, str]]:
    """Yield all tracks but the stylized one, with names such as "audio track 1 (aac)"."""
    stylized = find_stream(source, path).index
    seen = Counter[str]()
    for stream in source.streams:
        seen[stream.type] += 1
        codec = getattr(stream, "name", "unknown")  # of tracks of data; others may have none
        if stream.codec_context:
            codec = stream.codec_context.codec.canonical_name
        is_chapters = codec == CHAPTER_TRACK and source.chapters()  # copied with the tags
        if stream.index != stylized and not is_chapters:
            yield stream, f"{stream.type} track {seen[stream.type]} ({codec})"


def _can_copy(format: str, stream: Stream) -> bool:
    """Return whether a container takes a stream unchanged.

    It is tried out in memory, because no table of FFmpeg tells for all containers.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            _add_same_stream(stream, trial)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _copy_track(stream: Stream, output: OutputContainer, zero: Fraction) -> PacketConverter:
    """Add a track that takes the packets of `stream` unchanged, and return its converter.

    `zero` is the time in seconds that becomes 0.
    """
    copied = _add_same_stream(stream, output)
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
        packet.stream = copied  # the muxer finds the track by it
        return [packet]

    return convert


def _add_same_stream(stream: Stream, output: OutputContainer) -> Stream:
    """Add a stream of the same codec and settings to a file."""
    copied = output.add_stream_from_template(stream)
    if stream.type == "audio":  # some files tell the number of channels only; MP4 needs their names
        audio = cast("AudioStream", copied)
        audio.codec_context.layout = _channel_layout(cast("AudioStream", stream))
    _copy_stream_tags(stream, copied)
    return copied


def _channel_layout(stream: AudioStream) -> str:
    """Return the layout of a stream's channels, or the usual one for their number."""
    name = stream.layout.name
    return name.replace(" channels", "c") if stream.channels in NAMED_CHANNELS else name


def _reencode_audio(
    stream: AudioStream,
    output: OutputContainer,
    codec: str,
    zero: Fraction,
    damaged: Callable[[], None],
) -> PacketConverter:
    """Add a track of another codec for the sound of `stream`, and return its converter.

    `zero` is the time in seconds that becomes 0. `damaged` is called for each packet that is lost.
    """
    import av
    from av.error import FFmpegError

    rates = av.Codec(codec, "w").audio_rates or [stream.rate]
    rate = stream.rate if stream.rate in rates else OPUS_RATE
    name = _channel_layout(stream)
    # Opus has 5.1, but not 5.1(side), nor the rarer layouts.
    candidates = (name, name.split("(")[0])
    layout = next((x for x in candidates if _encodes_layout(codec, rate, x)), "stereo")
    encoded = cast("AudioStream", output.add_stream(codec, rate=rate, layout=layout))
    encoded.bit_rate = AUDIO_BITS * encoded.channels
    _copy_stream_tags(stream, encoded)
    clock: int | None = None  # start of the next frame, in samples

    def convert(packet: Packet[Stream] | None) -> list[Packet[Any]]:
        nonlocal clock
        packets: list[Packet[Any]] = []
        try:
            for frame in stream.decode(packet):
                if frame.pts is not None and frame.time_base is not None:
                    start = round((frame.pts * frame.time_base - zero) * frame.sample_rate)
                    # Frames follow each other without a gap, but for true holes in the sound.
                    if clock is None or start > clock + MIN_HOLE * frame.sample_rate:
                        clock = start
                frame.pts = clock or 0
                frame.time_base = Fraction(1, frame.sample_rate)
                clock = frame.pts + frame.samples
                packets += encoded.encode(frame)
        except FFmpegError:  # damaged sound is left out, and the rest keeps its time
            damaged()
        return packets if packet is not None else packets + encoded.encode(None)

    return convert


def _encodes_layout(codec: str, rate: int, layout: str) -> bool:
    """Return whether an encoder takes a layout of channels, by trying it."""
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


def _convert_subtitles(
    stream: SubtitleStream,
    output: OutputContainer,
    codec: str,
    zero: Fraction,
    damaged: Callable[[], None],
) -> PacketConverter:
    """Add a track of another codec for the texts of `stream`, and return its converter.

    `zero` is the time in seconds that becomes 0. `damaged` is called for each packet that is lost.
    """
    from av.error import FFmpegError

    encoded = cast("SubtitleStream", output.add_stream(codec))
    encoded.time_base = stream.time_base
    stream.codec_context.open(strict=False)  # opening makes the header that is copied next
    encoded.codec_context.subtitle_header = stream.codec_context.subtitle_header
    _copy_stream_tags(stream, encoded)
    shift = round(zero / (stream.time_base or MICROSECOND))

    def convert(packet: Packet[Stream] | None) -> list[Packet[Any]]:
        if packet is None:
            return []
        try:
            decoded = stream.decode2(packet)
        except FFmpegError:
            damaged()
            decoded = None
        if decoded is None:  # MP4 fills the time between two texts with empty ones
            return []
        text = encoded.codec_context.encode_subtitle(decoded)
        text.pts = (packet.pts or 0) - shift
        text.dts = text.pts
        text.duration = packet.duration
        text.time_base = packet.time_base
        text.stream = encoded
        return [text]

    return convert


def _copy_stream_tags(stream: Stream, copied: Stream) -> None:
    """Copy a track's language and title, and whether it is shown by default."""
    copied.metadata.update({k: v for k, v in stream.metadata.items() if k in KEPT_TAGS})
    copied.disposition = stream.disposition


def _decoding_time(packet: Packet[Any]) -> float:
    """Return the time in seconds at which a packet is decoded."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return float((ticks or 0) * packet.time_base)
