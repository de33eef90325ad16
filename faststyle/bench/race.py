"""Which trainer is sooner at a given objective: ours as a recipe has it, or the plain one that
everyone copies.

Both train for the same painting, on the same photos, in turns on one machine; the clock of each
runs in its own turns only. What both are measured by is the recipe's objective on photos that
neither trains on. The plain one minimises the objective of its own layers and weights (bench.py):
it is a trainer as a whole that is compared, not a step.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststyle.bench.training import Step, reference_step
from faststyle.devices import keep_freed_memory
from faststyle.images import fit_shorter
from faststyle.networks import build_network
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import VGGWeights
from faststyle.training.held_out import HeldOut
from faststyle.training.painting import read_painting
from faststyle.training.photos import open_source, photo_loader
from faststyle.training.recipe import Recipe
from faststyle.training.start import start_network
from faststyle.training.step import TrainStep, build_objective
from faststyle.training.accelerators import open_accelerator

# of pytorch/examples
REFERENCE_BATCH = 4
REFERENCE_SIZE = 256


@dataclass
class Runner:
    """One of the two: its network, one step of it, its time, and what it reached when."""

    name: str
    network: StyleNetwork
    step: Step
    photos: Iterator[Any]
    steps: int = 0
    seconds: float = 0.0
    # (seconds, total of the recipe's objective)
    curve: list[tuple[float, float]] = field(default_factory=list)

    def run_for(self, seconds: float) -> None:
        """Train for about that long."""
        end = self.seconds + seconds
        while self.seconds < end:
            photos = next(self.photos)["photo"].float().div(255)
            began = time.perf_counter()
            self.step(photos)
            self.seconds += time.perf_counter() - began
            self.steps += 1


@dataclass(frozen=True)
class Race:
    """Seconds of each to the objective `target`; None: not in the time that it had. The curves are (seconds, total)."""

    target: float
    ours: float
    reference: float | None
    ratio: float
    ours_curve: list[tuple[float, float]]
    reference_curve: list[tuple[float, float]]


def bench_race(
    style: Path,
    recipe: Recipe,
    weights: VGGWeights,
    seconds: float = 60.0,
    times: float = 10.0,
    turn: float = 15.0,
    see: Callable[[str], None] = lambda line: None,
) -> Race:
    """Let ours train for `seconds`, and the plain one until it is as good, or for so many `times`
    as long.

    `ratio` is how much sooner ours was there; at least that where the plain one never was. On the
    CPU, in float32.
    """
    keep_freed_memory()
    painting = read_painting(style)
    loss = build_objective(recipe, [painting.image], weights)
    ours = _ours(recipe, loss, painting.name)
    objective = copy.deepcopy(loss)  # both are measured by what training began with
    sized = fit_shorter(painting.image, recipe.painting_size)
    reference = _reference(recipe, sized, weights)
    while ours.seconds < seconds or reference.seconds < seconds:
        for runner in (ours, reference):
            runner.run_for(min(turn, seconds))
            _measure(runner, objective, see)
    target = ours.curve[-1][1]
    while reference.curve[-1][1] > target and reference.seconds < times * ours.seconds:
        reference.run_for(turn)
        _measure(reference, objective, see)
    there = {
        r.name: next((s for s, total in r.curve if total <= target), None)
        for r in (ours, reference)
    }
    soon = there["ours"]
    late = there["reference"]
    assert soon is not None  # the target is ours
    ratio = (reference.seconds if late is None else late) / soon
    return Race(target, soon, late, ratio, ours.curve, reference.curve)


def _ours(recipe: Recipe, loss: PerceptualLoss, name: str) -> Runner:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network).to(memory_format=torch.channels_last)
    start_network(network, recipe.network, recipe.init, loss, [name])
    accelerator = open_accelerator(dataclasses.replace(recipe, precision="float32"), "cpu")
    train_step = TrainStep(accelerator, network, loss, recipe)

    def step(photos: Tensor) -> None:
        photos = photos.contiguous(memory_format=torch.channels_last)
        which = torch.zeros(len(photos), dtype=torch.long)
        train_step(photos, which, min(runner.steps, recipe.steps - 1))

    photos = _photos(recipe, recipe.batch_size, recipe.image_size)
    runner = Runner("ours", network, step, photos)
    return runner


def _reference(recipe: Recipe, painting: Tensor, weights: VGGWeights) -> Runner:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network)
    step = reference_step(network, painting, weights)
    return Runner("reference", network, step, _photos(recipe, REFERENCE_BATCH, REFERENCE_SIZE))


def _photos(recipe: Recipe, batch_size: int, size: int) -> Iterator[Any]:
    source = open_source(recipe.photos, recipe.seed)
    many = batch_size * 10**6
    return iter(
        photo_loader(
            source,
            size=size,
            batch_size=batch_size,
            start=0,
            stop=many,
            seed=recipe.seed,
            workers=0,
        )
    )


def _measure(runner: Runner, objective: PerceptualLoss, see: Callable[[str], None]) -> None:
    total = HeldOut(lambda: runner.network, torch.device("cpu")).terms(objective)["total"]
    runner.curve.append((runner.seconds, total))
    see(f"{runner.name:9} {runner.seconds:6.1f} s, {runner.steps:5} steps: total {total:.3f}")
