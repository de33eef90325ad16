"""Measured speed and memory, always beside a plain reference where there is one, in one run on one machine.

The reference of training is what everyone copies (pytorch/examples, fast_neural_style): float32, contiguous tensors,
VGG-16 to relu4_3 on photo and output alike, content at relu2_2, style at relu1_2, relu2_2, relu3_3 and relu4_3, Adam.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

import psutil
import torch
from torch.nn.functional import mse_loss

from faststyle.devices import peak_memory
from faststyle.networks import build_network
from faststyle.perceptual.features import gram
from faststyle.perceptual.losses import STYLE_LAYERS, LossConfig, PerceptualLoss, Style, deepest_layers
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.slow.optimize import Progress, SlowConfig, optimize_image
from faststyle.training.recipe import Recipe

PAPER_NETWORK = {"name": "johnson", "width": 32, "start": "random"}
CONTENT_WEIGHT, STYLE_WEIGHT = 1e5, 1e10  # of pytorch/examples
SLOW_STEPS = {"lbfgs": 25, "adam": 5}  # L-BFGS: until its history of 20 pairs is full
WARM_UP = 2  # steps of each side before the clock counts: allocation, and compilation where it is on


@dataclass(frozen=True)
class TrainBench:
    """Images per second, medians over rounds; each round takes every side in turn.

    `reference` is the plain step; `ours` our step with the paper's network and the reference's layers; `recipe` our
    step as the recipe has it. The ratios are medians of the rounds' own ratios to the reference.
    """

    batch_size: int
    image_size: int
    threads: int
    reference: float
    ours: float
    recipe: float
    ratio: float
    ratio_default: float


def bench_train(recipe: Recipe, weights: VGGWeights, rounds: int = 5) -> TrainBench:
    """Time the steps on random photos of the recipe's batch and crop, float32, on the CPU."""
    photos = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    painting = torch.rand(1, 3, recipe.painting_size, recipe.painting_size)
    same = LossConfig(mode="absolute", content_layers={"relu2_2": 1.0}, style_layers="johnson")
    sides = {
        "reference": _reference_step(photos, painting, weights),
        "ours": _our_step(photos, painting, weights, dict(PAPER_NETWORK), same),
        "recipe": _our_step(photos, painting, weights, dict(recipe.network), recipe.loss),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(WARM_UP + rounds):
        for name, step in sides.items():
            began = time.perf_counter()
            step()
            if i >= WARM_UP:
                speeds[name].append(recipe.batch_size / (time.perf_counter() - began))

    def ratio(name: str) -> float:
        return median(a / b for a, b in zip(speeds[name], speeds["reference"], strict=True))

    middle = {name: median(values) for name, values in speeds.items()}
    return TrainBench(
        recipe.batch_size,
        recipe.image_size,
        torch.get_num_threads(),
        **middle,
        ratio=ratio("ours"),
        ratio_default=ratio("recipe"),
    )


@dataclass(frozen=True)
class SlowBench:
    """The slow path at one size: seconds a step (median), and what it adds at most to a process after the imports."""

    optimizer: str
    size: int
    steps: int
    threads: int
    seconds: float
    added_mb: int


def bench_slow(weights: VGGWeights, size: int, optimizers: Sequence[str] = ("lbfgs", "adam")) -> list[SlowBench]:
    """Measure the slow path on a random square image, on the CPU: each optimiser in a process of its own."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for optimizer in optimizers:
        with context.Pool(1) as pool:
            rows.append(pool.apply(_slow_in_process, (weights, size, optimizer, torch.get_num_threads())))
    return rows


def _slow_in_process(weights: VGGWeights, size: int, optimizer: Literal["lbfgs", "adam"], threads: int) -> SlowBench:
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    picture = torch.rand(1, 3, size, size)
    times: list[float] = []

    def see(now: Progress) -> None:
        times.append(now.seconds)

    steps = SLOW_STEPS[optimizer]
    config = SlowConfig(size=size, smallest=size, steps=steps, optimizer=optimizer)
    optimize_image(picture, [Style(torch.rand(1, 3, size, size))], config, weights, "cpu", see)
    seconds = median(b - a for a, b in pairwise(times))
    return SlowBench(optimizer, size, steps, threads, seconds, (peak_memory() - before) >> 20)


def _reference_step(photos: torch.Tensor, painting: torch.Tensor, weights: VGGWeights) -> Callable[[], None]:
    layers = [*STYLE_LAYERS["johnson"], "relu2_2"]
    vgg = load_vgg(weights, layers)
    network = build_network(PAPER_NETWORK)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    targets = {name: gram(f) for name, f in vgg(painting).items()}

    def step() -> None:
        optimizer.zero_grad()
        stylized = network(photos)
        feats, wanted = vgg(stylized), vgg(photos)
        content = CONTENT_WEIGHT * mse_loss(feats["relu2_2"], wanted["relu2_2"])
        style = sum(mse_loss(gram(feats[n]), targets[n].expand(len(photos), -1, -1)) for n in STYLE_LAYERS["johnson"])
        (content + STYLE_WEIGHT * style).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _our_step(
    photos: torch.Tensor,
    painting: torch.Tensor,
    weights: VGGWeights,
    network_config: dict[str, object],
    config: LossConfig,
) -> Callable[[], None]:
    loss = PerceptualLoss(load_vgg(weights, deepest_layers(config, weights.arch)), painting, config, weights.arch)
    loss = loss.to(memory_format=torch.channels_last)
    network = build_network(network_config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    photos = photos.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(photos), loss.targets(photos)).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step
