"""Refining for a still picture: the network learns from this one photo for a few seconds more.

Its objective is the function of the photo that it was trained on, as in the slow path, and what is
optimised are the scales and shifts of its normalisations. So a refined picture has the strokes of
the network: convolutions that learn one photo learn grain from it. In training a network serves all
photos; here it serves one. It ends with the weights of the lowest objective on the way, so that is
never higher than at the start.

Differs from Gatys, Ecker, Bethge (2015), https://arxiv.org/abs/1508.06576, who optimise pixels.
Weights in place of pixels are from Ulyanov, Vedaldi, Lempitsky (2018), "Deep Image Prior",
https://arxiv.org/abs/1711.10925, whose networks begin at random.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststyle.checkpoint import load_checkpoint
from faststyle.devices import find_device, find_precision, keep_freed_memory
from faststyle.engines.options import AUTO, EngineOptions, is_exported
from faststyle.errors import CheckpointError, DeviceError, ImageError, TrainingError
from faststyle.files import sha256
from faststyle.networks.network import MIN_SIDE, StyleNetwork, with_rim, without_rim
from faststyle.paintings import read_painting
from faststyle.perceptual.loss_config import smallest_side
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.weights import VGGWeights, find_weights
from faststyle.sizes import fit_shorter
from faststyle.training.objective import check_trained_on, recipe_of
from faststyle.training.recipe import Recipe
from faststyle.training.step import build_objective, optimizers_of

# Pixels of a photo that the network learns from; of a larger photo it sees a smaller copy. A step
# of mobile-96 at this size takes 2 GiB of memory in bf16, and 3 in float32.
LARGEST_AREA = 512 * 768
LEARNING_RATE = 4e-4  # that of the recipe `quick`
MOST_STEPS = 1000

# Where the painting of a checkpoint is looked for, where it is not named.
PAINTINGS = (Path(), Path("data/styles"))

Progress = Callable[[float, float], None]  # is called with seconds spent, and how many there are


@dataclass(frozen=True)
class Refined:
    """A network that was refined for a photo, and how it came to be.

    `first` and `last` are the terms of the picture before and after, at the size that it learned
    from.
    """

    network: StyleNetwork
    steps: int
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]

    def describe(self) -> str:
        """Return the line on it: "refined in 9.1 s, 5 steps: objective 1.738 to 1.410"."""
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
    """Refines a network for photos, one at a time, for so many `seconds` each.

    `painting` is (1, 3, H, W) in [0, 1]. `options` are those that the refined networks run with.
    `progress` is told of the seconds that are spent. Raises: ImageError for `seconds` that are not
    above 0, DeviceError for engines other than torch.

    Example:
        >>> refiner = Refiner.open(Path("nocturne.safetensors"), Path("nocturne.png"), 10)
        >>> refiner(photo).describe()
        'refined in 9.1 s, 5 steps: objective 1.738 to 1.410'
    """

    def __init__(
        self,
        network: StyleNetwork,
        recipe: Recipe,
        painting: Tensor,
        weights: VGGWeights,
        seconds: float,
        options: EngineOptions = AUTO,
        progress: Progress = lambda spent, of: None,
    ) -> None:
        if not 0 < seconds < math.inf:
            raise ImageError(f"`refine` takes seconds, more than 0, got {seconds:g}")
        if options.engine not in ("auto", "torch") or options.precision == "int8":
            raise DeviceError(
                "`refine` makes another network for each photo, which runs in torch: take "
                "`engine` torch, and a `precision` other than int8"
            )
        self.network = network
        # Without the critic, the objective of a photo is a fixed function.
        self.recipe = replace(
            recipe,
            init="base",  # the network is trained: its convolutions can stay as they are
            train="norms",
            learning_rate=LEARNING_RATE,
            adversarial_weight=0.0,
        )
        self.seconds = seconds
        self.options = replace(options, engine="torch")
        self.progress = progress
        self.device = find_device(options.device)
        exact = options.precision == "float32"
        self.precision = find_precision("float32" if exact else "auto", self.device)
        self.loss: PerceptualLoss = build_objective(self.recipe, [painting], weights)
        self.loss.to(self.device)

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
        network, about = load_checkpoint(style)
        recipe = recipe_of(style, about)
        found = painting or _find_painting(about.painting, style)
        pixels = read_painting(found)
        check_trained_on(style, about, found)
        weights = find_weights(recipe.vgg, vgg_weights)
        return cls(network, recipe, pixels, weights, seconds, options, progress)

    @torch.enable_grad()  # whoever paints does so without gradients
    def __call__(self, photo: Tensor) -> Refined:
        """Return the network refined for a `photo`, (1, 3, H, W) in [0, 1].

        There is at least one step; it ends where one more would go beyond the time. Raises:
        ImageError for a photo that is too small for the objective, TrainingError for a picture of
        the network whose objective is not finite.
        """
        h, w = photo.shape[-2:]
        self._check_size(h, w)
        began = time.perf_counter()
        keep_freed_memory()
        side = round(min(h, w) * min(1.0, math.sqrt(LARGEST_AREA / (h * w))))
        network = copy.deepcopy(self.network).train().requires_grad_(True)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        evaluate = self._objective(network, fit_shorter(photo, side).to(self.device))
        optimizers = self._optimizers(network)
        best: dict[str, Tensor] = {}
        first: Mapping[str, float] = {}
        last: Mapping[str, float] = {}
        spent = 0.0
        for step in range(MOST_STEPS + 1):
            terms = evaluate()
            values = {name: float(value.detach()) for name, value in terms.named().items()}
            if not math.isfinite(values["total"]):
                break
            first = first or values
            if not last or values["total"] < last["total"]:
                last = values
                best = {name: value.clone() for name, value in network.state_dict().items()}
            before = spent
            spent = time.perf_counter() - began
            self.progress(min(spent, self.seconds), self.seconds)
            if step and spent + (spent - before) > self.seconds:
                break
            terms.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        if not first:
            raise TrainingError("`refine`: the objective of the network's picture is not finite")
        network.load_state_dict(best)
        return Refined(network.eval().requires_grad_(False), step, spent, first, last)

    def _objective(self, network: StyleNetwork, photo: Tensor) -> Callable[[], Terms]:
        """Return the function that evaluates what the network paints of the photo."""
        photo = photo.contiguous(memory_format=torch.channels_last)
        around = with_rim(photo, network.rim, network.multiple)
        autocast = partial(
            torch.autocast, self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        )
        with torch.no_grad(), autocast():
            targets = self.loss.targets(photo)

        def evaluate() -> Terms:
            with autocast():
                painted = without_rim(network(around), photo, network.rim)
                terms: Terms = self.loss(painted, targets)
            return terms

        return evaluate

    def _optimizers(self, network: StyleNetwork) -> list[torch.optim.Optimizer]:
        """Return the optimizers of training, with a constant rate."""
        optimizers = optimizers_of(network, self.recipe)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = LEARNING_RATE * group["times"]
        return optimizers

    def _check_size(self, h: int, w: int) -> None:
        content, style = self.recipe.loss.layers(self.recipe.vgg)
        needed = max(MIN_SIDE, smallest_side([*content, *style]))
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
