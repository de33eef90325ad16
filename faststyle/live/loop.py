"""The loop of `faststyle webcam`: the newest frame, the network, an output, and keys in between.

What it is not: where frames come from (live/camera.py) and where they go (live/outputs.py).
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
from faststyle.live.camera import Camera, Shot
from faststyle.live.outputs import Output
from faststyle.signals import noted_signals
from faststyle.stylize.stylizer import Look
from faststyle.video.frames import Rgb

KEYS = "n next style, p the one before, + more of it, - less, space pause, s save a still, q quit"
STEP = 0.1  # of strength, for a key
RECENT = 30  # frames that the figure on the screen is of
FONT = 18  # pixels


class Style(Protocol):
    """What stylizes a frame: `Stylizer.frame`."""

    def __call__(self, rgb: Rgb, look: Look) -> Rgb: ...


@dataclass(frozen=True)
class LiveReport:
    """What became of a stream.

    `frames` were shown and `dropped` came too soon. `latency` is the median time between a frame's
    arrival and its showing in seconds, and `lag` the same in frames of the source.
    """

    frames: int
    dropped: int
    seconds: float
    fps: float
    latency: float
    lag: float


@dataclass
class _Session:
    """What keys change."""

    style: int = 0
    mix: float = 1.0
    paused: bool = False
    still: bool = False
    done: bool = False

    def press(self, key: str, styles: int) -> None:
        if key in "np":
            self.style = (self.style + (1 if key == "n" else -1)) % styles
        elif key in "+=":
            self.mix = min(1.0, round(self.mix + STEP, 3))
        elif key == "-":
            self.mix = max(0.0, round(self.mix - STEP, 3))
        elif key == " ":
            self.paused = not self.paused
        elif key == "s":
            self.still = True
        elif key == "q":
            self.done = True


def run_live(
    camera: Camera,
    styles: Sequence[tuple[str, Style]],
    output: Output,
    look: Look,
    stills: Path = Path(),
    limit: float | None = None,
    figures: bool = True,
    announce: Callable[[str], None] = lambda _: None,
) -> LiveReport:
    """Stylize what a camera sees until it ends, `limit` seconds are over, q is pressed or a signal
    comes.

    `styles` are names and what stylizes a frame; `look.mix` is the strength to begin with.
    `figures` are frames a second and the name of the style, drawn into each frame. Stills go to the
    folder `stills`, without figures. Raises: OutputError, VideoError.
    """
    session = _Session(mix=look.mix)
    latencies = []
    times = deque[float](maxlen=RECENT)
    began = time.monotonic()
    first: float | None = None
    # what came while networks were loaded is not dropped
    taken = 0
    before = camera.read
    with noted_signals() as stop:
        while not stop.number and (limit is None or time.monotonic() - began < limit):
            for key in output.pressed():
                session.press(key, len(styles))
            if session.done:
                break
            shot = camera.newest(timeout=0.1)
            if shot is None:
                if camera.ended:
                    break
                continue
            taken += 1
            if session.paused:
                continue
            name, style = styles[session.style]
            rgb = style(shot.rgb, replace(look, mix=session.mix))
            if session.still:
                session.still = False
                announce(f"wrote {_save_still(stills, name, rgb)}")
            times.append(time.monotonic())
            if figures:
                rgb = _with_figures(rgb, f"{_rate(times):.1f} fps  {name}  {session.mix:.0%}")
            first = shot.time if first is None else first
            output.show(rgb, shot.time - first)
            latencies.append(_age(shot))
    seconds = time.monotonic() - began
    latency = median(latencies) if latencies else 0.0
    return LiveReport(
        len(latencies),
        max(0, camera.read - before - taken),
        seconds,
        len(latencies) / seconds,
        latency,
        latency * camera.rate,
    )


def _age(shot: Shot) -> float:
    return time.monotonic() - shot.time


def _rate(times: deque[float]) -> float:
    return (
        (len(times) - 1) / (times[-1] - times[0])
        if len(times) > 1 and times[-1] > times[0]
        else 0.0
    )


def _save_still(folder: Path, name: str, rgb: Rgb) -> Path:
    """Write a still under the first number that is free. Raises: OutputError."""
    number = 1
    while (path := folder / f"{name}-{number:03d}.png").exists():
        number += 1
    write_image(torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255, path)
    return path


def _with_figures(rgb: Rgb, text: str) -> Rgb:
    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT)
    draw.text((8, 6), text, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)
