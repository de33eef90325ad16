"""Open media files through PyAV, and find their streams, decoders, packets and rates."""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from faststyle.video.animated import is_animated, open_animated
from faststyle.video.options import VideoError, file_url

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MICROSECOND = Fraction(1, 1_000_000)  # FFmpeg's AV_TIME_BASE
MAX_FAILED_READS = 100  # in a row; then the file counts as ended
# Denominators of the rates of cameras and films: whole numbers, and NTSC's such as 30000/1001.
RATE_DENOMINATORS = (1, 1001)
# Matroska stores a rate as whole nanoseconds, and FFmpeg reads that as 19001/317 for 60000/1001.
RATE_ERROR = Fraction(1, 1_000_000)
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
BOX_HEAD = 16  # bytes: length, name, and the length again where it needs 64 bits
PICTURE_FORMATS = ("_pipe", "image2")  # FFmpeg's names of readers of single pictures


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """Open a media file, and close it after the block. Raises: VideoError."""
    import av
    from av.error import FFmpegError

    try:
        media = open_animated(path) if is_animated(path) else file_url(path)
        file = av.open(media, "r", metadata_errors="replace")
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except PermissionError:
        raise VideoError(f"{path}: cannot be read (permission denied)") from None
    except (FFmpegError, ValueError) as error:
        reason = why_unreadable(path) or "not a video that can be read"
        raise VideoError(f"{path}: {reason}") from error
    with file:
        if file.format.name.endswith(PICTURE_FORMATS):
            kind = file.format.name.partition("_")[0]
            raise VideoError(
                f"{path}: one picture ({kind}), not a video; name a picture as `output`"
            )
        if file.format.name == "tty":  # FFmpeg shows any text as a video of a terminal
            raise VideoError(f"{path}: not a video that can be read")
        yield file


def why_unreadable(path: Path) -> str | None:
    """Return why no frame of a file can be read, the end of a sentence; None where it is unclear.

    MP4 is a row of boxes, each with its length and name. The index comes last in many files.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return "the file is empty"
        ends: dict[bytes, int] = {}
        at = 0
        while at + BOX_HEAD <= size and (b"ftyp" in ends or at == 0):
            file.seek(at)
            length, name, long = struct.unpack(">I4sQ", file.read(BOX_HEAD))
            # A length of 0 means up to the end, one of 1 that the true length follows.
            at += {0: size - at, 1: long}.get(length, length) or size
            ends[name] = at
    if b"ftyp" in ends and not ends.get(b"moov", size + 1) <= size:
        return "cut off: its index (moov) is missing; copy it or download it again"
    return None


def find_stream(file: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream that is not a cover picture. Raises: VideoError."""
    from av.stream import Disposition

    streams = [s for s in file.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{path}: has no pictures{', only sound' if file.streams.audio else ''}")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: there is no decoder for its pictures in this build of FFmpeg")
    return streams[0]


def find_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return the decoder of a stream.

    VP8 and VP9 with alpha are two streams in one; only the library of their makers reads both.
    """
    import av
    from av.codec.codec import UnknownCodecError

    context = stream.codec_context
    name = ALPHA_DECODERS.get(context.codec.canonical_name)
    if name is None or not is_tagged_with_alpha(stream):
        return context
    try:
        decoder: VideoCodecContext = av.CodecContext.create(name, "r")  # type: ignore[assignment]
    except UnknownCodecError:
        return context
    decoder.extradata = context.extradata
    return decoder


def read_packets(file: InputContainer, streams: list[Stream]) -> Iterator[Packet[Stream]]:
    """Yield the packets of streams, and an empty one at the end of each.

    After a failed read the next is tried, because damaged files often go on behind the damage.
    """
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
            if failed >= MAX_FAILED_READS:
                return


def time_base_and_rate(stream: VideoStream) -> tuple[Fraction, Fraction]:
    """Return the seconds in a tick, and the frames a second."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    usual = (Fraction(round(rate)), Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001))
    rate = next((one for one in usual if abs(one - rate) <= RATE_ERROR * rate), rate)
    return stream.time_base or 1 / rate, rate


def exact_ticks(tick: Fraction, rate: Fraction) -> Fraction:
    """Return the longest tick, in seconds, that divides `tick` and a frame at a usual rate.

    Matroska counts in milliseconds, so 24000/1001 frames a second are rounded in it: 42, 83, 125.
    """
    frame = 1 / rate
    if rate.denominator not in RATE_DENOMINATORS:
        return tick
    common = math.gcd(tick.numerator * frame.denominator, frame.numerator * tick.denominator)
    return Fraction(common, tick.denominator * frame.denominator)


def is_tagged_with_alpha(stream: VideoStream) -> bool:
    """Return whether Matroska or WebM says so, in letters of either case."""
    return ("alpha_mode", "1") in {(name.lower(), tag) for name, tag in stream.metadata.items()}
