"""Clips for the tests of videos, written and read with PyAV alone, and tests of these helpers.

The brightness of a frame is its number: so a frame is recognised after lossy coding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

H = 48
W = 64
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
MILLISECONDS = Fraction(1, 1000)
CLICK = 0.5  # seconds of silence before the sound of a clip starts
AUDIO_RATE = 48_000
# Ticks of 1/600 s: 24 and 30 frames a second in turns, and pauses. B-frames reach across them.
VARIABLE = [
    0,
    25,
    50,
    70,
    90,
    115,
    140,
    160,
    500,
    525,
    545,
    570,
    900,
    920,
    940,
    960,
    985,
    1010,
    1030,
    1055,
]


def draw(number: int, h: int = H, w: int = W) -> np.ndarray[Any, Any]:
    """Return a picture with the brightness of its number, 0 to 48.

    The right half is lighter by 8 levels and the bottom left darker, so that turns show.
    """
    picture = np.full((h, w, 3), 24 + 4 * number, np.uint8)
    picture[:, w // 2 :] += 8
    picture[h // 2 :, : w // 2] -= 8
    return picture


def number(picture: np.ndarray[Any, Any]) -> int:
    """Return the number that was drawn."""
    h, w = picture.shape[0] // 2, picture.shape[1] // 2
    return round((float(picture[: h - 2, : w - 2].mean()) - 24) / 4)


@dataclass
class Track:
    """A track as it was read: `times`, in seconds, and `data` are those of its packets."""

    type: str
    codec: str
    times: list[Fraction]
    data: list[bytes]
    duration: Fraction | None
    metadata: dict[str, str]


@dataclass
class Video:
    """A file as it was read: its frames as RGB, their times in seconds, and all tracks."""

    times: list[Fraction] = field(default_factory=list)
    frames: list[np.ndarray[Any, Any]] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    seconds: float = 0
    time_base: Fraction = Fraction(0)
    size: tuple[int, int] = (0, 0)
    aspect: Fraction | None = None
    rotation: int = 0
    format: str = ""
    color: tuple[int, int, int, int] = (0, 0, 0, 0)
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        return [number(frame) for frame in self.frames]

    def of(self, kind: str) -> list[Track]:
        return [track for track in self.tracks if track.type == kind]


def write_clip(
    path: Path,
    times: Sequence[int] = range(20),
    time_base: Fraction = Fraction(1, 25),
    *,
    rate: Fraction = Fraction(25),
    encoder: str = "libx264",
    format: str = "yuv420p",
    size: tuple[int, int] = (H, W),
    sound: Sequence[str] = (),
    color: tuple[int, int, int, int] = (0, 2, 2, 2),
    aspect: Fraction | None = None,
    turned: tuple[float, bool, bool] | None = None,
    text: bool = False,
    options: dict[str, str] | None = None,
    picture: Any = draw,
) -> Path:
    """Write a clip: frames at `times`, sound that starts at CLICK, and a text from 0.2 to 0.5 s.

    `sound` holds the codec of each track. `color` is (range, space, primaries, transfer) of FFmpeg.
    `turned` is (degrees, mirrored, upside down) of the display matrix.
    """
    h, w = size
    with av.open(str(path), "w", container_options=muxer_options(path, time_base)) as file:
        video = file.add_stream(
            encoder, rate=rate, width=w, height=h, pix_fmt=format, time_base=time_base
        )
        video.options = {"crf": "12", **(options or {})} if encoder == "libx264" else options or {}
        video.time_base = time_base
        video.codec_context.thread_count = 1
        context = video.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = color
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if turned is not None:
            video.set_display_rotation(*turned)
        tracks = [
            file.add_stream(codec, rate=AUDIO_RATE, layout="stereo", bit_rate=128_000)
            for codec in sound
        ]
        subtitles = file.add_mux_stream("subrip") if text else None
        if subtitles is not None:
            subtitles.metadata["language"] = "nor"
        file.metadata["title"] = "A walk"
        for i, pts in enumerate(times):
            frame = to_format(picture(i, h, w), format, color)
            frame.pts = pts
            frame.time_base = time_base
            file.mux(video.encode(frame))
        file.mux(video.encode())
        for track in tracks:
            for frame in sound_of(float((times[-1] - times[0] + 1) * time_base)):
                file.mux(track.encode(frame))
            file.mux(track.encode(None))
        if subtitles is not None:
            file.mux(hello(subtitles))
    return path


def muxer_options(path: Path, time_base: Fraction) -> dict[str, str]:
    if path.suffix == ".ts":
        return {"output_ts_offset": "10"}  # seconds, as in a broadcast that runs already
    if path.suffix == ".mp4":
        return {"movflags": "+faststart", "movie_timescale": str(time_base.denominator)}
    return {}


def to_format(
    picture: np.ndarray[Any, Any], format: str, color: tuple[int, int, int, int]
) -> av.VideoFrame:
    """Return an RGB picture as a frame in a pixel format."""
    return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
        format=format,
        dst_colorspace={2: 5}.get(color[1], color[1]),
        dst_color_range=color[0] or 1,
    )


def hello(stream: Any) -> av.Packet:
    """Return a subtitle that is shown from 0.2 to 0.5 s."""
    packet = av.Packet(b"Hello there")
    packet.stream = stream
    packet.time_base = MILLISECONDS
    packet.pts = 200
    packet.dts = 200
    packet.duration = 300
    return packet


def sound_of(seconds: float) -> Iterator[av.AudioFrame]:
    """Yield frames of sound: silence up to CLICK, then a tone of 1000 Hz."""
    wave = np.zeros(int(seconds * AUDIO_RATE), np.int16)
    start = int(CLICK * AUDIO_RATE)
    wave[start:] = 16_000 * np.sign(
        np.sin(np.arange(max(0, len(wave) - start)) * 2 * np.pi * 1000 / AUDIO_RATE)
    )
    for at in range(0, len(wave), 1024):
        samples = np.repeat(wave[at : at + 1024], 2)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.rate = AUDIO_RATE
        frame.pts = at
        frame.time_base = Fraction(1, AUDIO_RATE)
        yield frame


def read_clip(path: Path) -> Video:
    """Read all frames and tracks of a file."""
    video = Video()
    with av.open(f"file:{path}") as file:
        for stream in file.streams:
            base = stream.time_base or Fraction(1)
            with av.open(f"file:{path}") as again:
                packets = [
                    p
                    for p in again.demux(again.streams[stream.index])
                    if p.size and p.pts is not None
                ]
                data = [bytes(p) for p in packets]
            video.tracks.append(
                Track(
                    stream.type,
                    stream.codec_context.codec.canonical_name if stream.codec_context else "",
                    [(p.pts or 0) * base for p in packets],
                    data,
                    None if stream.duration is None else stream.duration * base,
                    dict(stream.metadata),
                )
            )
        video.metadata = dict(file.metadata)
        video.seconds = (file.duration or 0) / 1e6
        video.chapters = [
            (
                float(c["start"] * c["time_base"]),
                float(c["end"] * c["time_base"]),
                c["metadata"].get("title", ""),
            )
            for c in file.chapters()
        ]
    with av.open(f"file:{path}") as file:
        stream = file.streams.video[0]
        video.time_base = stream.time_base
        video.aspect = stream.sample_aspect_ratio
        video.format = stream.pix_fmt
        for frame in file.decode(stream):
            video.times.append(frame.pts * stream.time_base)
            video.frames.append(frame.to_ndarray(format="rgb24", interpolation=EXACT))
            video.rotation = frame.rotation
            video.size = (frame.height, frame.width)
            video.color = (
                frame.color_range,
                frame.colorspace,
                frame.color_primaries,
                frame.color_trc,
            )
    return video


def click_of(path: Path) -> float:
    """Return the seconds from the first frame to the start of the sound in the first track."""
    with av.open(f"file:{path}") as file:
        first = next(file.decode(video=0)).time
    with av.open(f"file:{path}") as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float))
            if frame.format.name.startswith("s16"):
                samples /= 32768
            loud = np.nonzero(samples.max(0) > 0.3)[0]
            if len(loud):
                channels = 2 if frame.format.is_packed else 1
                return float(frame.time - first + loud[0] / channels / frame.sample_rate)
    raise AssertionError("no sound")


@pytest.mark.parametrize("times", [range(20), VARIABLE])
def test_a_clip_is_read_as_it_was_written(tmp_path: Path, times: Sequence[int]) -> None:
    path = write_clip(tmp_path / "clip.mp4", times, Fraction(1, 600), sound=["aac"], text=False)
    video = read_clip(path)
    assert video.numbers == list(range(20))
    assert video.times == [Fraction(t, 600) for t in times]
    assert [track.codec for track in video.tracks] == ["h264", "aac"]
    assert (video.size, video.format, video.metadata["title"]) == ((H, W), "yuv420p", "A walk")


def test_the_sound_of_a_clip_starts_at_the_click(tmp_path: Path) -> None:
    assert click_of(write_clip(tmp_path / "clip.mp4", sound=["aac"])) == pytest.approx(
        CLICK, abs=0.002
    )
