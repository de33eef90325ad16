"""The view of a step: the crop of the output that the objective looks at, shifted at random.

Why a shift: VGG pools on a grid. If that grid always lay the same way on the grid on which the
network enlarges, the network would learn a lattice that flatters it. Why a margin: a network knows
the edges by the padding of its convolutions, and would put colours of the painting there that the
photo has no place for (docs/log/networks.md has the figures of both).
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from faststyle.training.recipe import Recipe


class View(NamedTuple):
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int

    def of(self, images: Tensor) -> Tensor:
        """Return this part of (B, 3, H, W), in channels last."""
        if self.side == images.shape[-1] == images.shape[-2]:
            return images
        part = images[:, :, self.top : self.top + self.side, self.left : self.left + self.side]
        return part.contiguous(memory_format=torch.channels_last)


def draw_view(recipe: Recipe, step: int) -> View:
    """Return the view of a step: a function of seed and step, so that resuming sees the same."""
    # Repeatable, and no secret: not for cryptography.
    draw = random.Random(f"{recipe.seed} view {step}")  # nosec B311
    top = recipe.margin + draw.randint(0, recipe.shift)
    left = recipe.margin + draw.randint(0, recipe.shift)
    return View(top, left, recipe.seen)
