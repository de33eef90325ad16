"""Measured speed and memory of the slow path."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

import psutil
import torch

from faststyle.devices import peak_memory
from faststyle.perceptual.losses import WeightedPainting
from faststyle.perceptual.weights import VGGWeights
from faststyle.slow.optimize import Progress, SlowConfig, optimize_image

STEPS = {"lbfgs": 25, "adam": 5}  # L-BFGS has its full history of 20 pairs only then


@dataclass(frozen=True)
class SlowBench:
    """The slow path at one size.

    `seconds` is the median of a step. `added_mb` is the peak memory beyond that of a process that
    has imported everything, in MiB.
    """

    optimizer: str
    size: int
    steps: int
    threads: int
    seconds: float
    added_mb: int


def bench_slow(
    weights: VGGWeights, size: int, optimizers: Sequence[str] = ("lbfgs", "adam")
) -> list[SlowBench]:
    """Measure the slow path on a random square image, on the CPU.

    Each optimizer runs in a process of its own, because memory is measured too.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for optimizer in optimizers:
        with context.Pool(1) as pool:
            rows.append(
                pool.apply(_slow_in_process, (weights, size, optimizer, torch.get_num_threads()))
            )
    return rows


def _slow_in_process(
    weights: VGGWeights, size: int, optimizer: Literal["lbfgs", "adam"], threads: int
) -> SlowBench:
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    picture = torch.rand(1, 3, size, size)
    times: list[float] = []

    def see(now: Progress) -> None:
        times.append(now.seconds)

    steps = STEPS[optimizer]
    config = SlowConfig(size=size, smallest=size, steps=steps, optimizer=optimizer)
    optimize_image(
        picture, [WeightedPainting(torch.rand(1, 3, size, size))], config, weights, "cpu", see
    )
    seconds = median(b - a for a, b in pairwise(times))
    return SlowBench(optimizer, size, steps, threads, seconds, (peak_memory() - before) >> 20)
