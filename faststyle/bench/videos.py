"""Measured speed of stylizing a video from file to file: decoding, network, encoding and sound.

The clip is given, or made here: a camera moves over photos, with the noise of its sensor, and there
is a tone. The output is compared with the clip: number of frames, their times, the sound.
bench/stylizing.py times single frames, without files.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faststyle.checkpoint import About
from faststyle.engines.engine import Engine
from faststyle.engines.opening import open_engine
from faststyle.engines.options import EngineOptions
from faststyle.extras import require
from faststyle.images import decode, flatten
from faststyle.networks.network import StyleNetwork
from faststyle.stylize.stylizer import Stylizer
from faststyle.training.photos import held_out_photos
from faststyle.video.frames import Rgb
from faststyle.video.job import VideoOptions, stylize_video
from faststyle.video.options import VideoError, find_target, require_av
from faststyle.video.read import open_clip
from faststyle.video.streams import find_stream, open_input

ON_CPU = EngineOptions(device="cpu", convert=True)
SIZES = ((480, 848), (720, 1280))  # height, width
RATE = 30  # frames a second of the clip
AUDIO_RATE = 48_000
AUDIO_FRAME = 1024  # samples of a frame of AAC
TONE = 440  # hertz
PHOTO_FRAMES = 45  # frames of the clip that show one photo
NOISE = 3.0  # of 255 levels, standard deviation


@dataclass(frozen=True)
class ClipFacts:
    """The facts that two videos are compared by. All times are in seconds.

    `times` are those of the frames, from the first one on. `seconds` is the length of the pictures.
    `sound` is a hash of the packets of sound, None without any. `sound_starts` is the time from the
    first picture to the first sound.
    """

    times: tuple[float, ...]
    seconds: float
    sound: str | None
    sound_starts: float | None


@dataclass(frozen=True)
class VideoRow:
    """The speed of one clip, "HxW", and how its output differs from it.

    `fps` is frames a second from file to file, `network_fps` that of the network alone. `megabits`
    are those of a second of the clip. `frames` are in the output, `frames_in` in the clip. `off_ms`
    is the largest difference of the time of a frame, None where the numbers of frames differ.
    `length_off_ms` is the difference of the lengths, `sound_off_ms` that of the starts of the sound
    after the first picture. `same_sound` says whether the bytes of the sound are the same.
    """

    engine: str
    precision: str
    size: str
    frames: int
    fps: float
    network_fps: float
    megabits: float
    frames_in: int
    off_ms: float | None
    length_off_ms: float
    same_sound: bool
    sound_off_ms: float


def bench_video(
    source: Path | tuple[StyleNetwork, About],
    sizes: Sequence[tuple[int, int]] = SIZES,
    seconds: float = 5.0,
    clips: Sequence[Path] = (),
    options: EngineOptions = ON_CPU,
    announce: Callable[[str], None] = lambda _: None,
) -> list[VideoRow]:
    """Stylize `clips`, or else a clip of each size, in H.264 as `faststyle stylize` writes it.

    Raises: VideoError, DeviceError, CheckpointError.
    """
    require_av()
    opened = open_engine(source, options, announce)
    stylizer = Stylizer(opened)
    rows = []
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        made = [Path(folder) / f"{h}x{w}.mp4" for h, w in sizes]
        for clip, (h, w) in [] if clips else zip(made, sizes, strict=True):
            announce(f"making a clip of {seconds:g} s at {h}x{w}")
            write_clip(clip, h, w, seconds)
        for clip in clips or made:
            announce(f"timing {clip.name}")
            rows.append(_time_clip(clip, Path(folder) / "out.mp4", opened, stylizer))
    return rows


def _time_clip(clip: Path, out: Path, engine: Engine, stylizer: Stylizer) -> VideoRow:
    upright = open_clip(clip, VideoOptions(), find_target(out).container).clip
    h, w = upright.height, upright.width
    timed = _TimedStylizer(stylizer)
    for _ in range(2):  # engines compile for a size that comes for the second time
        timed(np.zeros((h, w, 3), np.uint8))
    timed.seconds = 0.0
    began = time.perf_counter()
    report = stylize_video(clip, out, timed, VideoOptions(overwrite=True))
    fps = report.frames / (time.perf_counter() - began)
    before = read_facts(clip)
    after = read_facts(out)
    off = None
    if len(before.times) == len(after.times):
        off = 1e3 * max(abs(a - b) for a, b in zip(before.times, after.times, strict=True))
    return VideoRow(
        engine=engine.name,
        precision=engine.precision,
        size=f"{h}x{w}",
        frames=report.frames,
        fps=fps,
        network_fps=report.frames / timed.seconds,
        megabits=clip.stat().st_size * 8e-6 / before.seconds,
        frames_in=len(before.times),
        off_ms=off,
        length_off_ms=1e3 * abs(after.seconds - before.seconds),
        same_sound=before.sound == after.sound,
        sound_off_ms=1e3 * abs((after.sound_starts or 0) - (before.sound_starts or 0)),
    )


def read_facts(clip: Path) -> ClipFacts:
    """Decode the pictures of a clip, and read the packets of its sound. Raises: VideoError."""
    av = require("av", extra="video")
    try:
        return _read_facts(clip)
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{clip}: damaged, which cannot be compared ({error.strerror or error})"
        ) from error


def _read_facts(clip: Path) -> ClipFacts:
    times: list[Fraction] = []
    end = Fraction(0)
    first_sound = None
    sound = hashlib.sha256()
    with open_input(clip) as file:
        stream = find_stream(file, clip)
        audio = file.streams.audio[:1]
        for packet in file.demux(stream, *audio):
            if packet.stream is not stream:
                sound.update(bytes(packet))
                if first_sound is None and packet.pts is not None:
                    first_sound = packet.pts * packet.time_base
                continue
            for picture in stream.decode(packet):
                if picture.pts is None or picture.time_base is None:
                    raise VideoError(
                        f"{clip}: frames without times cannot be compared; "
                        "put it into an .mp4 or .mkv"
                    )
                times.append(picture.pts * picture.time_base)
                end = max(end, times[-1] + (picture.duration or 0) * picture.time_base)
    return ClipFacts(
        times=tuple(float(one - times[0]) for one in times),
        seconds=float(end - times[0]),
        sound=sound.hexdigest() if audio else None,
        sound_starts=None if first_sound is None else float(first_sound - times[0]),
    )


class _TimedStylizer:
    """A function that stylizes frames and adds up the seconds that they take."""

    def __init__(self, stylizer: Stylizer) -> None:
        self.stylizer = stylizer
        self.seconds = 0.0

    def __call__(self, rgb: Rgb) -> Rgb:
        began = time.perf_counter()
        out: Rgb = self.stylizer.frame(rgb)
        self.seconds += time.perf_counter() - began
        return out


def write_clip(path: Path, h: int, w: int, seconds: float) -> None:
    """Write a clip with sound, H.264 and AAC: a camera moves over photos, with a noisy sensor."""
    av = require("av", extra="video")
    count = round(seconds * RATE)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast"})
        video.width = w
        video.height = h
        video.pix_fmt = "yuv420p"
        audio = file.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        for rgb in _moving(h, w, count):
            file.mux(video.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        file.mux(video.encode(None))
        tone = _tone(seconds)
        for start in range(0, tone.shape[1], AUDIO_FRAME):
            samples = np.ascontiguousarray(tone[:, start : start + AUDIO_FRAME])
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate = AUDIO_RATE
            frame.pts = start
            frame.time_base = Fraction(1, AUDIO_RATE)
            file.mux(audio.encode(frame))
        file.mux(audio.encode(None))


def _tone(seconds: float) -> NDArray[np.float32]:
    """Return the samples of a tone, (2, N), in [-0.1, 0.1]."""
    times = np.arange(int(seconds * AUDIO_RATE)) / AUDIO_RATE
    wave = 0.1 * np.sin(2 * np.pi * TONE * times)
    return np.repeat(wave.astype(np.float32)[None], 2, 0)


def _moving(h: int, w: int, count: int) -> Iterator[Rgb]:
    """Yield frames of a camera that crosses each photo and zooms in, never by whole pixels."""
    rng = np.random.default_rng(0)
    # Each frame takes another part of the noise, which is quicker than new noise.
    noise = rng.normal(0, NOISE, (2 * h, 2 * w, 1)).round().astype(np.int16)
    photos = [flatten(decode(file)) for file in held_out_photos()]
    for number in range(count):
        photo = photos[number // PHOTO_FRAMES % len(photos)]
        done = number % PHOTO_FRAMES / PHOTO_FRAMES
        # Pixels of the photo for one pixel of the frame.
        scale = min(photo.width / w, photo.height / h) * (0.9 - 0.2 * done)
        left = (photo.width - w * scale) * done
        top = (photo.height - h * scale) * (1 - done)
        box = (left, top, left + w * scale, top + h * scale)
        rgb = np.asarray(photo.resize((w, h), Image.Resampling.BICUBIC, box))
        y = rng.integers(h)
        x = rng.integers(w)
        yield (rgb + noise[y : y + h, x : x + w]).clip(0, 255).astype(np.uint8)
