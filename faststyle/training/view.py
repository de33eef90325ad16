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

from faststyle.training.accelerators import as_data
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
        return square(images, self.top, self.left, self.side)


def square(images: Tensor, top: int, left: int, side: int) -> Tensor:
    """Return a square part of (B, C, H, W), in channels last.

    XLA compiles a program for each slice. So there the pixels are taken by index: the indices are
    data, and one program serves all places.
    """
    if images.device.type == "xla":
        for dim, first in ((2, top), (3, left)):
            places = as_data(torch.arange(first, first + side), images.device)
            images = images.index_select(dim, places)
        part = images
    else:
        part = images[:, :, top : top + side, left : left + side]
    return part.contiguous(memory_format=torch.channels_last)


def draw_view(recipe: Recipe, step: int) -> View:
    """Return the view of a step: a function of seed and step, so that resuming sees the same."""
    # Repeatable, and no secret: not for cryptography.
    draw = random.Random(f"{recipe.seed} view {step}")  # nosec B311
    top = recipe.margin + draw.randint(0, recipe.shift)
    left = recipe.margin + draw.randint(0, recipe.shift)
    return View(top, left, recipe.seen)
