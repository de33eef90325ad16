"""Measured speed of stylizing a video from file to file: decoding, network, encoding and sound, all of it.

The clip is made here: moving test pictures of FFmpeg with noise, and a tone. What it is not: single frames without
files, which bench_stylize.py times.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from faststyle.checkpoint import About
from faststyle.networks.start import StyleNetwork
from faststyle.stylize.engines import open_engine
from faststyle.stylize.stylizer import Stylizer
from faststyle.video.frames import Rgb
from faststyle.video.job import VideoOptions, stylize_video
from faststyle.video.options import require_av

SIZES = ((480, 848), (720, 1280))  # height, width
RATE = 30  # frames a second of the clip
AUDIO_RATE = 48_000


@dataclass(frozen=True)
class VideoRow:
    """One clip, "HxW": `fps` is frames a second from file to file, `network_fps` those of the network alone."""

    engine: str
    precision: str
    size: str
    frames: int
    fps: float
    network_fps: float


def bench_video(
    source: Path | tuple[StyleNetwork, About],
    sizes: Sequence[tuple[int, int]] = SIZES,
    seconds: float = 5.0,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[VideoRow]:
    """Stylize a clip of each size, in H.264 as `faststyle stylize` writes it, on the CPU.

    Raises: VideoError, DeviceError, CheckpointError.
    """
    require_av()
    opened = open_engine(source, engine, "cpu", precision, threads, announce)
    stylizer = Stylizer(opened)
    rows = []
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        for h, w in sizes:
            clip = Path(folder) / f"{h}x{w}.mp4"
            announce(f"timing a clip of {seconds:g} s at {h}x{w}")
            write_clip(clip, h, w, seconds)
            timed = _Timed(stylizer)
            for _ in range(2):  # engines compile for a size when it comes for the second time
                timed(np.zeros((h, w, 3), np.uint8))
            timed.seconds, began = 0.0, time.perf_counter()
            report = stylize_video(clip, clip.with_name("out.mp4"), timed, VideoOptions(overwrite=True))
            fps = report.frames / (time.perf_counter() - began)
            alone = report.frames / timed.seconds
            rows.append(VideoRow(opened.name, opened.precision, f"{h}x{w}", report.frames, fps, alone))
    return rows


class _Timed:
    """A stylizer of frames that counts the seconds that it takes."""

    def __init__(self, stylizer: Stylizer) -> None:
        self.stylizer, self.seconds = stylizer, 0.0

    def __call__(self, rgb: Rgb) -> Rgb:
        began = time.perf_counter()
        out: Rgb = self.stylizer.frame(rgb)
        self.seconds += time.perf_counter() - began
        return out


def write_clip(path: Path, h: int, w: int, seconds: float) -> None:
    """Write a clip with sound: FFmpeg's moving test pictures under noise, which encoders find as hard as a film."""
    import av

    with (
        av.open(f"testsrc2=size={w}x{h}:rate={RATE},noise=alls=12:allf=t", format="lavfi") as source,
        av.open(str(path), "w") as file,
    ):
        video = file.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = w, h, "yuv420p"
        audio = file.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        for number, picture in enumerate(islice(source.decode(video=0), round(seconds * RATE))):
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
        times = np.arange(int(seconds * AUDIO_RATE)) / AUDIO_RATE
        tone = np.repeat((0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)[None], 2, 0)
        for start in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, start, Fraction(1, AUDIO_RATE)
            file.mux(audio.encode(frame))
        file.mux(audio.encode(None))
