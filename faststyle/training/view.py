"""What the objective looks at in a step: a crop of the output that is shifted at random, and a window of that.

Why a shift: VGG pools on a grid of its own. If that grid always lay the same way on the grid on which the network
upsamples, the network would learn a lattice that flatters it. Why a margin: a network knows where the edges are, by the
padding of its convolutions, and would put there what colours the painting has and the photo has no place for
(docs/log.md has the figures of both).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from torch import Tensor

from faststyle.perceptual.features import Window
from faststyle.training.recipe import Recipe


class View(NamedTuple):
    """`crop` of the photos and of what the network made of them; `window`, inside it, for layers at full size."""

    crop: Window
    window: Window | None

    def of(self, images: Tensor) -> Tensor:
        """Return the crop of (B, 3, H, W)."""
        whole = self.crop.side == images.shape[-1] == images.shape[-2]
        return images if whole else self.crop.of(images)


def draw_view(recipe: Recipe, step: int) -> View:
    """Return the view of a step: a pure function of seed and step, so that resuming sees the same."""
    draw = random.Random(f"{recipe.seed} view {step}")
    top, left = (recipe.margin + draw.randint(0, recipe.shift) for _ in range(2))
    crop = Window(top, left, recipe.seen)
    free = recipe.seen - recipe.window
    return View(crop, Window(draw.randint(0, free), draw.randint(0, free), recipe.window) if recipe.window else None)
