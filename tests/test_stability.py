"""Pictures must follow the photo as it moves: which pixels are compared, and how."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from faststyle.training.stability import (
    EXPOSURE,
    FAINT,
    NOISE,
    REACH,
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


def test_what_stays_in_place_is_unstable() -> None:
    """A lattice of the network's own, of 0 and 1, does not move with the photo."""
    rows = torch.arange(SIDE).view(-1, 1)
    lattice = ((rows + torch.arange(SIDE)) % 2).float().expand(2, 3, -1, -1)
    odd = STILL._replace(down=1)
    even = STILL._replace(down=1, right=1)
    # Every pixel changes by 1, and each of both pictures has a variance of 1/4.
    assert instability(lattice, lattice, odd, 4) == pytest.approx(1 / (0.5 + FAINT))
    assert instability(lattice, lattice, even, 4) == 0


def test_what_counts_is_the_share_of_strokes_that_moves_along(photos: Tensor) -> None:
    """Half of the strokes is the photo's, half stays in place: pale or bold, that is 1/2."""
    motion = STILL._replace(down=2, right=-3)
    own = torch.rand(photos.shape, generator=torch.Generator().manual_seed(2))
    frame = 0.5 * (moved(photos, motion) + own)
    picture = 0.5 * (photos + own)
    variance = 1 / 24  # half the variance of numbers between 0 and 1
    for contrast in (1.0, 0.4, 0.1):
        bold = 2 * contrast**2 * variance
        paler = [0.5 + contrast * (x - 0.5) for x in (picture, frame)]
        expected = 0.5 * bold / (bold + FAINT)
        assert instability(*paler, motion, 4) == pytest.approx(expected, rel=0.05)
    assert instability(photos, own, STILL, 4) == pytest.approx(1, abs=0.03)
    assert instability(photos, 1 - photos, STILL, 4) == pytest.approx(2, abs=0.03)


def test_noise_and_light_are_those_of_the_motion() -> None:
    grey = torch.full((1, 3, 256, 256), 0.5)
    motion = Motion(2, 3, 1.02, 2 / 255, 7)
    frame = moved(grey, motion)
    assert frame.mean() == pytest.approx(0.51, abs=1e-4)
    assert frame.std() == pytest.approx(2 / 255, rel=0.01)
    noise = (2 / 255) ** 2
    expected = (0.01**2 + noise) / (noise + FAINT)
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
