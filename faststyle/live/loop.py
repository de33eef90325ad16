"""The loop of `faststyle webcam`: take the newest frame, stylize it, show it, and obey keys.

Frames come from live/camera.py and go to live/outputs.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from faststyle.images import write_image
from faststyle.live.camera import Camera, CameraFrame
from faststyle.live.outputs import Output
from faststyle.signals import noted_signals
from faststyle.stylize.stylizer import Look
from faststyle.video.frames import Rgb

MIX_STEP = 0.1  # change of strength for each key press
RATE_WINDOW = 30  # frames that the speed on the screen is measured over
FONT_SIZE = 18  # pixels


class FrameStylizer(Protocol):
    """A function that stylizes a frame, (H, W, 3) uint8, such as `Stylizer.frame`."""

    def __call__(self, rgb: Rgb, look: Look) -> Rgb: ...


@dataclass(frozen=True)
class LiveReport:
    """The result of a live run.

    `frames` were shown, and `dropped` frames came too soon after another. `latency` is the median
    time from the arrival of a frame to its showing, in seconds. `lag` is the same in frames of the
    source.
    """

    frames: int
    dropped: int
    seconds: float
    fps: float
    latency: float
    lag: float


@dataclass
class _Controls:
    """The settings that keys change while the loop runs."""

    style: int = 0
    mix: float = 1.0
    paused: bool = False
    save_still: bool = False
    quit: bool = False

    def press(self, key: str, styles: int) -> None:
        """Obey a key. `styles` is the number of styles."""
        if key in "np":
            self.style = (self.style + (1 if key == "n" else -1)) % styles
        elif key in "+=":
            self.mix = min(1.0, round(self.mix + MIX_STEP, 3))
        elif key == "-":
            self.mix = max(0.0, round(self.mix - MIX_STEP, 3))
        elif key == " ":
            self.paused = not self.paused
        elif key == "s":
            self.save_still = True
        elif key == "q":
            self.quit = True


class _Statistics:
    """Counts the frames of a run, and measures its speed and latency."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.began = time.monotonic()
        # Frames that came while networks were loaded do not count as dropped.
        self.read_before = camera.read
        self.taken = 0
        self.latencies: list[float] = []
        self.recent = deque[float](maxlen=RATE_WINDOW)  # times at which frames were stylized

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def recent_fps(self) -> float:
        """Return the speed over the last RATE_WINDOW frames, 0 before the second one."""
        if len(self.recent) < 2 or self.recent[-1] <= self.recent[0]:
            return 0.0
        return (len(self.recent) - 1) / (self.recent[-1] - self.recent[0])

    def count_stylized(self) -> None:
        self.recent.append(time.monotonic())

    def count_shown(self, frame: CameraFrame) -> None:
        self.latencies.append(time.monotonic() - frame.arrival)

    def report(self) -> LiveReport:
        seconds = self.seconds
        latency = median(self.latencies) if self.latencies else 0.0
        return LiveReport(
            frames=len(self.latencies),
            dropped=max(0, self.camera.read - self.read_before - self.taken),
            seconds=seconds,
            fps=len(self.latencies) / seconds,
            latency=latency,
            lag=latency * self.camera.rate,
        )


def run_live(
    camera: Camera,
    styles: Sequence[tuple[str, FrameStylizer]],
    output: Output,
    look: Look,
    stills: Path = Path(),
    limit: float | None = None,
    figures: bool = True,
    announce: Callable[[str], None] = lambda _: None,
) -> LiveReport:
    """Stylize the frames of a camera until it ends, q is pressed, or a signal comes.

    `styles` are pairs of a name and a function. `look.mix` is the strength at the beginning. The
    loop ends after `limit` seconds, if given. With `figures` the frames a second, the style and
    its strength are drawn into each frame. Stills are written to the folder `stills`, without
    figures, and announced.

    Raises: OutputError, VideoError.
    """
    controls = _Controls(mix=look.mix)
    statistics = _Statistics(camera)
    first_arrival: float | None = None
    with noted_signals() as stop:
        while not stop.number and (limit is None or statistics.seconds < limit):
            for key in output.pressed():
                controls.press(key, len(styles))
            if controls.quit:
                break
            # A short timeout, so that keys and signals are noticed between slow frames.
            frame = camera.newest(timeout=0.1)
            if frame is None:
                if camera.ended:
                    break
                continue
            statistics.taken += 1
            # The frames of a pause are taken, so they do not count as dropped.
            if controls.paused:
                continue
            name, stylize = styles[controls.style]
            rgb = stylize(frame.rgb, replace(look, mix=controls.mix))
            if controls.save_still:
                controls.save_still = False
                announce(f"wrote {_save_still(stills, name, rgb)}")
            statistics.count_stylized()
            if figures:
                speed = f"{statistics.recent_fps:.1f} fps"
                rgb = _draw_text(rgb, f"{speed}  {name}  {controls.mix:.0%}")
            first_arrival = frame.arrival if first_arrival is None else first_arrival
            output.show(rgb, frame.arrival - first_arrival)
            statistics.count_shown(frame)
    return statistics.report()


def _save_still(folder: Path, name: str, rgb: Rgb) -> Path:
    """Write a still under the first free number, and return its path. Raises: OutputError."""
    number = 1
    while (path := folder / f"{name}-{number:03d}.png").exists():
        number += 1
    write_image(torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255, path)
    return path


def _draw_text(rgb: Rgb, text: str) -> Rgb:
    """Return a copy of a frame with text at the top left: white, with a black outline."""
    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)
    draw.text((8, 6), text, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)
