"""Pictures must follow the photo as it moves: which pixels are compared, and how."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from faststyle.training.stability import (
    EXPOSURE,
    FAINT,
    GRAIN,
    NOISE,
    REACH,
    WINDOW,
    Motion,
    draw_motion,
    instability,
    moved,
)

STILL = Motion(0, 0, 1.0, 0.0, 0)
SIDE = 64


@pytest.fixture
def photos() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-REACH, REACH), (REACH, 1)])
def test_a_network_that_follows_the_photo_is_stable(photos: Tensor, shift: tuple[int, int]) -> None:
    motion = STILL._replace(down=shift[0], right=shift[1])
    frame = moved(photos, motion)
    assert frame.shape == photos.shape
    # each pixel that both frames show is the same, wherever it is
    assert instability(photos.square(), frame.square(), motion, 4) == 0
    assert (shift == (0, 0)) == torch.equal(frame, photos)


def waves(lengthwise: bool) -> Tensor:
    """Return stripes from 0 to 1, (1, 3, SIDE, SIDE), each as wide as a square of `WINDOW`."""
    wave = 0.5 + 0.5 * torch.sin(2 * math.pi * torch.arange(SIDE) / WINDOW)
    return (wave if lengthwise else wave[:, None]).expand(1, 3, SIDE, SIDE)


# Moved by a quarter of a stripe, lengthwise stripes have nothing in common with themselves.
QUARTER = STILL._replace(right=WINDOW // 4)
# What is left of the variance of stripes in means of `GRAIN` pixels.
LEFT = (math.sin(math.pi * GRAIN / WINDOW) / (GRAIN * math.sin(math.pi / WINDOW))) ** 2


def test_what_stays_in_place_is_unstable() -> None:
    """A network's own stripes do not move with the photo."""
    own = waves(lengthwise=True)
    variance = 2 * LEFT / 8
    assert instability(own, own, QUARTER, 4) == pytest.approx(0.25 / (variance + FAINT), rel=0.03)
    assert instability(own, own, STILL, 4) == 0
    turned = instability(own, 1 - own, STILL, 4)
    assert turned == pytest.approx(0.5 / (variance + FAINT), rel=0.03)


def test_what_counts_is_the_share_of_strokes_that_moves_along() -> None:
    """Half of the strokes is the photo's, half stays in place: pale or bold, that is 1/2."""
    # Crosswise stripes look the same when the photo moves to the right: they follow it.
    picture = 0.5 * (waves(lengthwise=True) + waves(lengthwise=False))
    for contrast in (1.0, 0.4, 0.1):
        paler = 0.5 + contrast * (picture - 0.5)
        variance = contrast**2 / 32  # of each half
        expected = 2 * variance / (4 * LEFT * variance + FAINT)
        assert instability(paler, paler, QUARTER, 4) == pytest.approx(expected, rel=0.03)


def test_grain_that_follows_the_photo_does_not_count_as_strokes() -> None:
    own = 0.25 + 0.5 * waves(lengthwise=True)
    rows = torch.arange(SIDE).view(-1, 1)
    grain = ((rows + torch.arange(SIDE)) % 2).float() - 0.5
    with_grain = own + 0.5 * grain
    expected = instability(own, own, QUARTER, 4).item()
    assert instability(with_grain, with_grain, QUARTER, 4) == pytest.approx(expected, rel=0.03)


def test_noise_and_light_are_those_of_the_motion() -> None:
    grey = torch.full((1, 3, 256, 256), 0.5)
    motion = Motion(2, 3, 1.02, 2 / 255, 7)
    frame = moved(grey, motion)
    assert frame.mean() == pytest.approx(0.51, abs=1e-4)
    assert frame.std() == pytest.approx(2 / 255, rel=0.01)
    noise = (2 / 255) ** 2
    expected = (0.01**2 + noise) / (noise / GRAIN**2 + FAINT)
    assert instability(grey, frame, motion, 4) == pytest.approx(expected, rel=0.03)
    assert torch.equal(frame, moved(grey, motion))


def test_motions_are_drawn_by_seed_and_step() -> None:
    drawn = [draw_motion(3, step) for step in range(300)]
    assert drawn[5] == draw_motion(3, 5)
    assert drawn[5] != draw_motion(4, 5)
    for axis in (0, 1):
        assert {motion[axis] for motion in drawn} == set(range(-REACH, REACH + 1))
    assert all(abs(motion.gain - 1) <= EXPOSURE for motion in drawn)
    assert all(0 <= motion.noise <= NOISE for motion in drawn)
    assert math.isclose(sum(m.noise for m in drawn) / 300, NOISE / 2, rel_tol=0.1)
