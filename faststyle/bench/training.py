"""Measured speed and memory of training, beside a reference in the same run.

The reference is the trainer that everyone copies (pytorch/examples, fast_neural_style): float32,
contiguous tensors, autograd through VGG-16 to relu4_3 on photo and output alike, content at
relu2_2, style at relu1_2, relu2_2, relu3_3 and relu4_3, Adam.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faststyle.devices import find_precision, keep_freed_memory, peak_memory
from faststyle.networks import build_network
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.training.accelerators import open_accelerator
from faststyle.training.recipe import Recipe
from faststyle.training.step import TrainStep, build_objective

PAPER_NETWORK = {"name": "johnson", "width": 32}
# Weights of pytorch/examples, for photos divided by the deviations of torchvision. Features of VGG
# weights with other deviations are larger or smaller in proportion.
CONTENT_WEIGHT = 1e5
STYLE_WEIGHT = 1e10
TORCHVISION_STD = 0.226  # mean of the three channels
SAME_LAYERS = LossConfig(mode="absolute", content_layers={"relu2_2": 1.0}, style_layers="johnson")
WARM_UP = 2  # steps before the clock counts: memory is allocated, and perhaps code is compiled
# Channels and sides of convolutions of VGG. The fastest of them counts as the peak of the machine.
PEAK_CONVS = ((64, 128), (128, 64), (256, 64), (512, 32))
SIDES = ("reference", "ours", "recipe")

Step = Callable[[Tensor], None]  # one step on photos (B, 3, S, S) in [0, 1]


@dataclass(frozen=True)
class TrainBench:
    """Images per second, as medians over rounds. Each round takes every side in turn.

    `reference` is the plain step. `ours` is our step with the reference's network and layers.
    `recipe` is our step as the recipe says. `ratio` (of `ours`) and `ratio_default` (of `recipe`)
    are medians of the rounds' own ratios to the reference.

    `flops_per_image` is counted by torch on a step of `ours`; for Winograd it counts the products
    that are computed. `utilisation` is the share of `peak_flops` that is reached, the speed of the
    fastest of a few plain 3x3 convolutions in the same precision. Memory is the peak of a process
    that ran one side only.
    """

    batch_size: int
    image_size: int
    threads: int
    precision: str
    network: dict[str, Any]
    reference_layers: str
    recipe_layers: str
    reference: float
    ours: float
    recipe: float
    ratio: float
    ratio_default: float
    flops_per_image: float
    reference_flops_per_image: float
    peak_flops: float
    utilisation: float
    peak_rss_mb: int
    recipe_peak_rss_mb: int
    reference_peak_rss_mb: int


def bench_train(
    recipe: Recipe, weights: VGGWeights, rounds: int = 5, network: Mapping[str, Any] = PAPER_NETWORK
) -> TrainBench:
    """Time steps on the CPU, on random photos of the recipe's batch and crop.

    `network` is that of `reference` and `ours`.
    """
    keep_freed_memory()
    precision = find_precision("auto", torch.device("cpu"))
    steps = {side: _step(side, recipe, weights, network) for side in SIDES}
    speeds = _speeds(steps, recipe.batch_size, rounds)

    def ratio(side: str) -> float:
        return median(a / b for a, b in zip(speeds[side], speeds["reference"], strict=True))

    middle = {side: median(values) for side, values in speeds.items()}
    flops = {side: _flops(step) / recipe.batch_size for side, step in steps.items()}
    peak = _conv_peak(recipe.batch_size, precision)
    memory = {side: _peak_in_process(side, recipe, weights, network) for side in SIDES}
    return TrainBench(
        batch_size=recipe.batch_size,
        image_size=recipe.image_size,
        threads=torch.get_num_threads(),
        precision=precision,
        network=dict(network),
        reference_layers=_layers(SAME_LAYERS, weights),
        recipe_layers=_layers(recipe.loss, weights),
        **middle,
        ratio=ratio("ours"),
        ratio_default=ratio("recipe"),
        flops_per_image=flops["ours"],
        reference_flops_per_image=flops["reference"],
        peak_flops=peak,
        utilisation=flops["ours"] * middle["ours"] / peak,
        peak_rss_mb=memory["ours"],
        recipe_peak_rss_mb=memory["recipe"],
        reference_peak_rss_mb=memory["reference"],
    )


def _step(
    side: str, recipe: Recipe, weights: VGGWeights, network: Mapping[str, Any]
) -> Callable[[], None]:
    """Return a training step of one side, on random photos."""
    photos = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    painting = torch.rand(1, 3, recipe.painting_size, recipe.painting_size)
    if side == "reference":
        return partial(reference_step(build_network(network), painting, weights), photos)
    photos = photos.contiguous(memory_format=torch.channels_last)
    if side == "ours":
        same = Recipe(
            batch_size=recipe.batch_size,
            image_size=recipe.image_size,
            painting_size=recipe.painting_size,
            vgg=recipe.vgg,
            network=network,
            loss=SAME_LAYERS,
        )
        return partial(_our_step(build_network(network), painting, weights, same), photos)
    own = build_network(recipe.network)
    return partial(_our_step(own, painting, weights, recipe), photos)


def _speeds(
    steps: Mapping[str, Callable[[], None]], batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Return images per second of each side in each round, after a warm-up."""
    speeds: dict[str, list[float]] = {side: [] for side in steps}
    for i in range(WARM_UP + rounds):
        for side, step in steps.items():
            began = time.perf_counter()
            step()
            if i >= WARM_UP:
                speeds[side].append(batch_size / (time.perf_counter() - began))
    return speeds


def _layers(config: LossConfig, weights: VGGWeights) -> str:
    """Return the layers of an objective, in words."""
    content, style = config.layers(weights.arch)
    return f"content {' '.join(content)}; style {' '.join(style)}"


def _flops(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _conv_peak(batch_size: int, precision: str) -> float:
    """Return the operations per second of the fastest of a few 3x3 convolutions."""
    best = 0.0
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for channels, side in PEAK_CONVS:
        x = torch.rand(batch_size, channels, side, side, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        weight = torch.rand(channels, channels, 3, 3, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(WARM_UP + 5):
            began = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            spent = time.perf_counter() - began
            best = max(best, 2 * 9 * channels**2 * side**2 * batch_size / spent)
    return best


def _peak_in_process(
    side: str, recipe: Recipe, weights: VGGWeights, network: Mapping[str, Any]
) -> int:
    """Return the peak memory, in MiB, of a new process that runs one side."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_steps, (side, recipe, weights, network, torch.get_num_threads()))


def _peak_of_steps(
    side: str, recipe: Recipe, weights: VGGWeights, network: Mapping[str, Any], threads: int
) -> int:
    torch.set_num_threads(threads)
    if side != "reference":
        keep_freed_memory()
    step = _step(side, recipe, weights, network)
    for _ in range(WARM_UP + 1):
        step()
    return peak_memory() >> 20


def reference_step(network: nn.Module, painting: Tensor, weights: VGGWeights) -> Step:
    """Return the step of the reference, which trains `network`.

    Its weights of content and style fit the range of features that VGG has with `weights`.
    """
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    vgg = load_vgg(weights, layers).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def features(image: Tensor) -> list[Tensor]:
        found = []
        x = (image - vgg.mean) / vgg.std
        for name, conv in vgg.convs.items():
            if name in ("2_1", "3_1", "4_1"):
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
            if f"relu{name}" in layers:
                found.append(x)
        return found

    def plain_gram(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.view(b, c, h * w)
        return flat.bmm(flat.transpose(1, 2)) / (c * h * w)

    targets = [plain_gram(f) for f in features(painting)]
    # Features grow with this factor, content errors with its square, style's with its 4th power.
    gain = TORCHVISION_STD * 3 / sum(weights.std)
    content_weight = CONTENT_WEIGHT / gain**2
    style_weight = STYLE_WEIGHT / gain**4

    def step(photos: Tensor) -> None:
        optimizer.zero_grad()
        feats = features(network(photos))
        wanted = features(photos)
        total = content_weight * F.mse_loss(feats[1], wanted[1])
        for f, target in zip(feats, targets, strict=True):
            total = total + style_weight * F.mse_loss(
                plain_gram(f), target.expand(len(photos), -1, -1)
            )
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _our_step(network: StyleNetwork, painting: Tensor, weights: VGGWeights, recipe: Recipe) -> Step:
    """Return our step, which trains `network` on the CPU as a recipe says."""
    accelerator = open_accelerator(recipe, "cpu")
    loss = build_objective(recipe, [painting], weights)
    network.to(memory_format=torch.channels_last)
    train_step = TrainStep(accelerator, network, loss, recipe)

    def step(photos: Tensor) -> None:
        train_step(photos, [0] * len(photos), 0)

    return step
