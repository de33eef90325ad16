"""Stable video from stills: as the photo moves, so should the picture, and noise should not show.

A network paints each frame by itself. Where the photo is moved by a pixel, or gets the noise of a
sensor, its strokes jump: video flickers. So each step moves some photos, and compares the pictures.
Source: temporal consistency as in Ruder et al. (2016), https://arxiv.org/abs/1604.08610. Differs:
frames are made from stills by whole pixels. Then each pixel of one picture has its own in the
other, and no resampling blurs what is compared. And the change is seen in proportion to the
contrast of strokes (`instability`).
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.training.accelerators import as_data
from faststyle.training.view import square

REACH = 7  # pixels: the longest shift
EXPOSURE = 0.03  # the largest change of light, as a share
NOISE = 4 / 255  # the largest standard deviation of noise, of values in [0, 1]
WINDOW = 16  # pixels: the side of the squares that strokes are compared in
GRAIN = 4  # pixels: what is finer is no stroke
FAINT = 1e-3  # a variance, values in [0, 1]: strokes much fainter than that count less


class Motion(NamedTuple):
    """What happens to the photos between two frames: a shift in pixels, light, and noise."""

    down: int
    right: int
    gain: float
    noise: float
    seed: int


def draw_motion(seed: int, step: int) -> Motion:
    """Return the motion of a step: a function of seed and step, so that resuming sees the same."""
    # Repeatable, and no secret: not for cryptography.
    draw = random.Random(f"{seed} motion {step}")  # nosec B311
    return Motion(
        draw.randint(-REACH, REACH),
        draw.randint(-REACH, REACH),
        1 + draw.uniform(-EXPOSURE, EXPOSURE),
        draw.uniform(0, NOISE),
        draw.getrandbits(32),
    )


def moved(photos: Tensor, motion: Motion) -> Tensor:
    """Return photos, (B, 3, S, S) in [0, 1], as the next frame has them; edges are mirrored.

    The noise is the same for all of them, so that it does not depend on how many there are.
    """
    wide = F.pad(photos, (REACH,) * 4, mode="reflect")
    shifted = square(wide, REACH + motion.down, REACH + motion.right, photos.shape[-1])
    generator = torch.Generator().manual_seed(motion.seed)
    noise = torch.randn(shifted.shape[1:], generator=generator) * motion.noise
    gain = as_data(torch.tensor(motion.gain), photos.device)
    noisy: Tensor = shifted * gain + as_data(noise, photos.device)
    return noisy.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def instability(picture: Tensor, next_picture: Tensor, motion: Motion, margin: int) -> Tensor:
    """Return how far strokes are from following the photo.

    0: they follow. 1: as two unrelated pictures. 2: light strokes become dark ones.

    `picture` is that of the photos, `next_picture` that of the moved ones, (B, 3, S, S) each.
    `margin` pixels at the edges are left out: padding paints there. In each square of `WINDOW`
    pixels, the mean squared change is divided by the variance of both pictures and `FAINT`. So
    paler strokes are as bad as bold ones: the change alone had made pictures flat and grey. The
    variance is that of means of `GRAIN` pixels: fine grain that follows the photo does not help. On
    flat places a change of light counts most, and the result may be more than 2. Without it,
    viewers liked pictures less (docs/log/objective.md).
    """
    first = margin + REACH
    side = picture.shape[-1] - 2 * first
    before = square(picture, first + motion.down, first + motion.right, side).float()
    after = square(next_picture, first, first, side).float()
    change = _windows((after - before).square())
    variance = _variance(_coarse(before)) + _variance(_coarse(after))
    return (change / (variance + FAINT)).mean()


def _coarse(picture: Tensor) -> Tensor:
    """Return the means of squares of `GRAIN` pixels around each pixel, at the size of `picture`."""
    means = F.avg_pool2d(picture, GRAIN, 1, padding=GRAIN // 2, count_include_pad=False)
    return means[..., :-1, :-1]


def _variance(picture: Tensor) -> Tensor:
    """Return the variance in squares that overlap by half."""
    return (_windows(picture.square()) - _windows(picture).square()).clamp_min(0)


def _windows(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW, WINDOW // 2)
