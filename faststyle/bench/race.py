"""A race of two trainers: which one reaches the same objective sooner?

Ours trains as a recipe says. The reference is the trainer of bench/training.py, which everyone
copies, with its own layers and weights. Both train for the same painting, on the same photos, in
turns on one machine. The clock of each runs in its own turns only. Both are measured by the
recipe's objective, on photos that neither trains on.
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
from faststyle.networks import build_network
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import VGGWeights
from faststyle.sizes import fit_bounded
from faststyle.training.accelerators import open_accelerator
from faststyle.training.held_out import HeldOut
from faststyle.training.painting import read_painting
from faststyle.training.photos import open_photos, photo_loader
from faststyle.training.recipe import Recipe
from faststyle.training.start import start_network
from faststyle.training.step import TrainStep, build_objective

# Of pytorch/examples, which the reference is.
REFERENCE_BATCH = 4
REFERENCE_SIZE = 256
MOST_STEPS = 10**6


@dataclass
class Runner:
    """One of the two trainers: its network, its step, its clock and its results so far."""

    name: str
    network: StyleNetwork
    step: Step
    photos: Iterator[Any]
    steps: int = 0
    seconds: float = 0.0
    # (seconds, total of the recipe's objective), one after each turn
    curve: list[tuple[float, float]] = field(default_factory=list)

    def run_for(self, seconds: float) -> None:
        """Train until about so many seconds are over; only the steps count."""
        end = self.seconds + seconds
        while self.seconds < end:
            photos = next(self.photos)["photo"].float().div(255)
            began = time.perf_counter()
            self.step(photos)
            self.seconds += time.perf_counter() - began
            self.steps += 1

    def time_to(self, target: float) -> float | None:
        """Return the seconds to the first total of `target` or less, None without any."""
        return next((seconds for seconds, total in self.curve if total <= target), None)


@dataclass(frozen=True)
class Race:
    """The seconds that each trainer took to the objective `target`, and how they got there.

    `reference` is None where the reference did not reach it in its time. `ratio` is how many times
    as long the reference took, or at least took. The curves are pairs of seconds and total.
    """

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
    """Train ours for `seconds`, and the reference until it is as good.

    The reference gives up after `times` as long. `turn` is how many seconds one trains before it is
    the other's turn. `see` is told of each turn, and of a start that is not the best.
    Everything runs on the CPU, in float32.
    """
    keep_freed_memory()
    painting = read_painting(style)
    loss = build_objective(recipe, [painting.image], weights)
    ours = _ours(recipe, loss, painting.name, see)
    objective = copy.deepcopy(loss)  # training changes its weights; both are measured by the first
    sized = fit_bounded(painting.image, recipe.painting_size)
    reference = _reference(recipe, sized, weights)
    while ours.seconds < seconds or reference.seconds < seconds:
        for runner in (ours, reference):
            runner.run_for(min(turn, seconds))
            _measure(runner, objective, see)
    target = ours.curve[-1][1]
    while reference.curve[-1][1] > target and reference.seconds < times * ours.seconds:
        reference.run_for(turn)
        _measure(reference, objective, see)
    our_time = ours.time_to(target)
    their_time = reference.time_to(target)
    assert our_time is not None  # the target is the last of our own curve
    ratio = (reference.seconds if their_time is None else their_time) / our_time
    return Race(target, our_time, their_time, ratio, ours.curve, reference.curve)


def _ours(recipe: Recipe, loss: PerceptualLoss, name: str, see: Callable[[str], None]) -> Runner:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network).to(memory_format=torch.channels_last)
    origin = start_network(network, recipe.network, recipe.init, loss, [name])
    if origin.note:
        see(f"note: {origin.note}")
    accelerator = open_accelerator(dataclasses.replace(recipe, precision="float32"), "cpu")
    train_step = TrainStep(accelerator, network, loss, recipe)

    def step(photos: Tensor) -> None:
        photos = photos.contiguous(memory_format=torch.channels_last)
        train_step(photos, [0] * len(photos), min(runner.steps, recipe.steps - 1))

    # The step reads `runner`, which is there once the first step is taken.
    photos = _photos(recipe, recipe.batch_size, recipe.image_size)
    runner = Runner("ours", network, step, photos)
    return runner


def _reference(recipe: Recipe, painting: Tensor, weights: VGGWeights) -> Runner:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network)
    step = reference_step(network, painting, weights)
    return Runner("reference", network, step, _photos(recipe, REFERENCE_BATCH, REFERENCE_SIZE))


def _photos(recipe: Recipe, batch_size: int, size: int) -> Iterator[Any]:
    """Return batches of the recipe's photos, more than any race takes."""
    loader = photo_loader(
        open_photos(recipe.photos, recipe.seed),
        size=size,
        batch_size=batch_size,
        start=0,
        stop=batch_size * MOST_STEPS,
        seed=recipe.seed,
        workers=0,
    )
    return iter(loader)


def _measure(runner: Runner, objective: PerceptualLoss, see: Callable[[str], None]) -> None:
    total = HeldOut(lambda: runner.network, torch.device("cpu")).terms(objective)["total"]
    runner.curve.append((runner.seconds, total))
    see(f"{runner.name:9} {runner.seconds:6.1f} s, {runner.steps:5} steps: total {total:.3f}")
