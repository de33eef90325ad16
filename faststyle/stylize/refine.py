"""Refining a still picture: steps of the slow path go on from the picture of the network.

They minimise the objective that the network was trained on, for this one photo, but for its light
term (`CONTRAST`, `LIGHT`). The optimiser is L-BFGS (slow/descent.py). The time is given, and the
picture of the lowest objective is taken, so it is never higher than that of the network's own.

Source: Gatys, Ecker, Bethge (2015), https://arxiv.org/abs/1508.06576
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.checkpoint import read_about
from faststyle.devices import find_device, find_precision, keep_freed_memory
from faststyle.engines.options import AUTO, EngineOptions, is_exported
from faststyle.errors import CheckpointError, ImageError, TrainingError
from faststyle.files import sha256
from faststyle.paintings import SMALL, read_painting
from faststyle.perceptual.light import SQUARE, luminance
from faststyle.perceptual.loss_config import smallest_side
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.texture import textured
from faststyle.perceptual.weights import VGGWeights, find_weights
from faststyle.sizes import fit_shorter
from faststyle.slow.descent import Descent, Step
from faststyle.slow.optimize import LEAN_FROM
from faststyle.training.objective import check_trained_on, recipe_of
from faststyle.training.recipe import Recipe
from faststyle.training.step import build_objective

# Pixels that are refined. Steps at this size take some 2.3 GiB of memory. Of a larger picture a
# smaller copy is refined, and the difference is enlarged: there is no tile, and so no seam.
LARGEST_AREA = 1024 * 1024
MOST_STEPS = 10_000  # after which nothing changes any more
# Mirrored pixels around picture and photo, that are cut off again: steps put odd colours there.
RIM = 16

# Where the painting of a checkpoint is looked for, where it is not named.
PAINTINGS = (Path(), Path("data/styles"))

# How fast flat places of the photo get finer light and dark, over the speed of textured ones.
FLAT = 0.25

# The light term, beside that of training. A network reaches a part of the contrast that it is asked
# for, steps reach all of it: white walls would become dirty. And steps buy style with odd hues.
CONTRAST = 1.0
LIGHT = 2.0  # times its weight in training

Progress = Callable[[float, float], None]  # is called with seconds spent, and how many there are


@dataclass(frozen=True)
class Refined:
    """A refined picture, (1, 3, H, W) in [0, 1], and how it came to be.

    `first` and `last` are the terms of the network's picture and of this one, at the size at which
    it was refined.
    """

    picture: Tensor
    steps: int
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]

    def describe(self) -> str:
        """Return the line on it: "refined in 10.3 s, 9 steps: objective 1.218 to 0.655"."""
        before = self.first["total"]
        after = self.last["total"]
        spent = f"{self.seconds:.1f} s, {self.steps} step{'s' * (self.steps != 1)}"
        if after < before:
            return f"refined in {spent}: objective {before:.3f} to {after:.3f}"
        return (
            f"not refined: in {spent}, the objective did not go below the {before:.3f} of the "
            "network's picture"
        )


class Refiner:
    """Refines pictures of one network, for so many `seconds` each.

    `painting` is (1, 3, H, W) in [0, 1]. `progress` is told of the seconds that are spent. Raises:
    ImageError for `seconds` that are not above 0.

    Example:
        >>> refiner = Refiner.open(Path("nocturne.safetensors"), Path("nocturne.png"), 10)
        >>> refiner(photo, network(photo)).describe()
        'refined in 10.3 s, 9 steps: objective 1.218 to 0.655'
    """

    def __init__(
        self,
        recipe: Recipe,
        painting: Tensor,
        weights: VGGWeights,
        seconds: float,
        options: EngineOptions = AUTO,
        progress: Progress = lambda spent, of: None,
    ) -> None:
        if not 0 < seconds < math.inf:
            raise ImageError(f"`refine` takes seconds, more than 0, got {seconds:g}")
        light = LIGHT * recipe.loss.weights().light
        loss = replace(recipe.loss, contrast=CONTRAST, light_weight=light)
        # without the critic it is a fixed function
        self.recipe = replace(recipe, loss=loss, adversarial_weight=0.0)
        self.painting = painting
        self.weights = weights
        self.seconds = seconds
        self.progress = progress
        self.device = find_device(options.device)
        exact = options.precision == "float32"
        self.precision = find_precision("float32" if exact else "auto", self.device)
        self._objectives: dict[float, PerceptualLoss] = {}  # the last one, by its scale

    @classmethod
    def open(
        cls,
        style: Path,
        painting: Path | None,
        seconds: float,
        options: EngineOptions = AUTO,
        vgg_weights: Path | None = None,
        progress: Progress = lambda spent, of: None,
    ) -> Refiner:
        """Return the refiner of a checkpoint, from the file of its painting.

        Without `painting`, the file is looked for by the name that the checkpoint has of it, here
        and in data/styles/. Raises: CheckpointError for a checkpoint without recipe or painting;
        ImageError, WeightsError, DeviceError.
        """
        if is_exported(style):
            raise CheckpointError(
                f"{style}: an exported file, whose painting and objective are not known; "
                "`refine` takes checkpoints"
            )
        about = read_about(style)
        recipe = recipe_of(style, about)
        found = painting or _find_painting(about.painting, style)
        pixels = read_painting(found)
        check_trained_on(style, about, found)
        weights = find_weights(recipe.vgg, vgg_weights)
        return cls(recipe, pixels, weights, seconds, options, progress)

    def __call__(self, photo: Tensor, picture: Tensor) -> Refined:
        """Return the refined `picture` of a `photo`, both (1, 3, H, W) in [0, 1].

        It ends with the first step after the time is over. Raises: ImageError for a picture that is
        too small for the objective, TrainingError for a term that is not finite.
        """
        h, w = picture.shape[-2:]
        self._check_size(h, w)
        scale = min(1.0, math.sqrt(LARGEST_AREA / (h * w)))
        side = round(scale * min(h, w))
        start = fit_shorter(picture, side)
        found = self._descend(fit_shorter(photo, side), start, scale)
        if scale == 1:
            return found
        # Enlarged without clamping, because differences are below 0 too.
        off = F.interpolate(found.picture - start, (h, w), mode="bicubic")
        return replace(found, picture=(picture + off).clamp(0, 1))

    def _descend(self, photo: Tensor, start: Tensor, scale: float) -> Refined:
        """Return the best picture on the way down from `start`, at its own size."""
        loss = self._objective(scale)  # loaded once, so it is not a part of the time
        began = time.perf_counter()
        loss.lean = start.shape[-2] * start.shape[-1] > LEAN_FROM
        if not loss.lean:  # else memory is scarce
            keep_freed_memory()
        home = start.device
        start = _with_rim(start.to(self.device))
        photo = _with_rim(photo.to(self.device))
        fine = FLAT + (1 - FLAT) * textured(photo)
        layout = torch.channels_last  # convolutions on CPUs and on tensor cores are fastest in it
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        )
        with autocast:
            targets = loss.targets(photo.contiguous(memory_format=layout))

        def objective(pixels: Tensor) -> Mapping[str, Tensor]:
            image = smoothed(start, pixels, fine).contiguous(memory_format=layout)
            with autocast:
                terms: Terms = loss(image, targets)
            return terms.named()

        with torch.enable_grad():  # networks paint without gradients
            first: Step | None = None
            best: Step | None = None
            try:
                for step in Descent(start, objective).run(MOST_STEPS):
                    spent = time.perf_counter() - began
                    self.progress(min(spent, self.seconds), self.seconds)
                    first = first or step
                    if best is None or step.terms["total"] < best.terms["total"]:
                        best = step
                    if spent >= self.seconds and step.step:
                        break
            except TrainingError:  # a term that is not finite: the best picture before it counts
                if best is None:
                    raise
        assert first is not None
        assert best is not None
        picture = smoothed(start, best.image, fine)[..., RIM:-RIM, RIM:-RIM].to(home)
        return Refined(picture, step.step, spent, first.terms, best.terms)

    def _objective(self, scale: float) -> PerceptualLoss:
        """Return the objective with a painting of `scale` times its size in training.

        So strokes are as large in a picture as the network paints them, at any size. Below `SMALL`
        pixels a painting has none, so strokes become larger in pictures of many pixels.
        """
        if scale not in self._objectives:
            side = self.recipe.painting_size * self.recipe.stroke_size
            smallest = min(1.0, SMALL / side)
            stroke_size = max(scale, smallest) * self.recipe.stroke_size
            recipe = replace(self.recipe, stroke_size=stroke_size)
            loss = build_objective(recipe, [self.painting], self.weights)
            self._objectives = {scale: loss.to(self.device)}
        return self._objectives[scale]

    def _check_size(self, h: int, w: int) -> None:
        content, style = self.recipe.loss.layers(self.recipe.vgg)
        needed = max(RIM + 1, smallest_side([*content, *style]))
        if min(h, w) < needed:
            raise ImageError(
                f"{h}x{w} pixels are too few for `refine`, which needs {needed} a side"
            )


def _find_painting(about: Mapping[str, Any], style: Path) -> Path:
    """Return the file of a checkpoint's painting. Raises: CheckpointError where it is not there."""
    name = about.get("file")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{style} names no painting, so `refine` does not know what to go on to"
        )
    for folder in PAINTINGS:
        file = folder / Path(name).name  # the checkpoint may come from anybody
        if file.is_file() and sha256(file) == about.get("sha256"):
            return file
    raise CheckpointError(
        f"{style} was trained on {name}, which is not here: name that file with `painting`"
    )


def smoothed(start: Tensor, pixels: Tensor, fine: Tensor) -> Tensor:
    """Return the picture, (1, 3, H, W) in [0, 1], that `pixels` mean which began as `start`.

    Changes are means over squares, and finer ones of light and dark, which are smoothed by a
    binomial filter of 5x5 pixels and multiplied by `fine`, (1, 1, H, W). Steps on plain pixels
    would buy the same objective with grain, with colours along outlines, and with stains in skies.
    """
    change = pixels - start
    coarse = F.avg_pool2d(change, SQUARE, ceil_mode=True)  # the last may be a part of a square
    coarse = F.interpolate(coarse, scale_factor=SQUARE, mode="bilinear")
    coarse = coarse[..., : change.shape[-2], : change.shape[-1]]
    light = F.pad(luminance(change), (2,) * 4, mode="replicate")
    for _ in range(4):  # means over 2x2 pixels
        light = F.avg_pool2d(light, 2, stride=1)
    return (start + coarse + fine * (light - luminance(coarse))).clamp(0, 1)


def _with_rim(image: Tensor) -> Tensor:
    return F.pad(image, (RIM,) * 4, mode="reflect")
