"""Measured speed of training in several processes, and a model of it for more devices.

Each count of processes is a run of torchrun on this machine, whose processes exchange gradients
over the loopback interface. Photos are random: decoding is measured by itself.
"""

from __future__ import annotations

import json
import math
import os
import subprocess  # nosec B404
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from faststyle.devices import cores, set_threads
from faststyle.errors import TrainingError
from faststyle.networks import build_network
from faststyle.perceptual.weights import find_weights
from faststyle.training.accelerators import open_accelerator
from faststyle.training.leaves import dead_leaves
from faststyle.training.photos import FolderPhotos, NumberedPhotos
from faststyle.training.recipe import Recipe, recipe_from_dict
from faststyle.training.step import TrainStep, build_objective

WARM_UP = 2  # steps before the clock counts
PHOTO = (640, 480)  # pixels: those of most photos of COCO
PHOTOS = 40  # that are decoded
EXCHANGES = 2  # all-reduces a step: the network's gradients, in one bucket, and the critic's


@dataclass(frozen=True)
class ScaleRow:
    """Training in so many processes of one thread each.

    `seconds` is the median of a step, `exchange_seconds` that of an all-reduce of as many bytes by
    itself. `expected_seconds` is the step that the model says: that of one process, times the
    processes for each core, plus the exchange. `efficiency` is the share of the speed of as many
    processes alone. `sent_bytes` is what each process sends in a step, by the model;
    `loopback_bytes` what the loopback interface counted for each: other programs are in it too.
    """

    processes: int
    seconds: float
    exchange_seconds: float
    expected_seconds: float
    images_per_second: float
    efficiency: float
    sent_bytes: int
    loopback_bytes: int


@dataclass(frozen=True)
class ScaleBench:
    """The rows, and what they share. `decoded_per_second` is in photos, of one core."""

    cores: int
    network: dict[str, Any]
    batch_size: int
    image_size: int
    gradient_bytes: int
    decoded_per_second: float
    rows: list[ScaleRow]


@dataclass(frozen=True)
class Machine:
    """What the model takes for a device and its network.

    `step_seconds` of `batch_size` photos on one device; `link` bytes a second of each device to
    the others, `latency` seconds a hop; `cores` for each device, which decode
    `decoded_per_second` photos each. `download` is in bytes a second of each device, and
    `read_share` the share of all photos, those of other devices too, that each one reads of a
    stream: each worker reads its lanes whole (training/photos.py).
    """

    step_seconds: float
    batch_size: int
    gradient_bytes: int
    link: float
    latency: float
    cores: float
    decoded_per_second: float
    photo_bytes: float = 163e3  # the mean of COCO's
    download: float = math.inf
    read_share: float = 0.0


def sent_bytes(gradient_bytes: int, processes: int) -> int:
    """Return the bytes that each process sends in an all-reduce over a ring."""
    return round(2 * (processes - 1) / processes * gradient_bytes)


def predict(machine: Machine, devices: int) -> dict[str, Any]:
    """Return seconds a step, photos a second and what limits them, for so many devices.

    Exchange and computing do not overlap: the network is one bucket. Photos come beside both.
    """
    exchange = sent_bytes(machine.gradient_bytes, devices) / machine.link
    exchange += EXCHANGES * 2 * (devices - 1) * machine.latency
    decoding = machine.batch_size / (machine.cores * machine.decoded_per_second)
    read = machine.batch_size * max(1.0, devices * machine.read_share)
    reading = read * machine.photo_bytes / machine.download
    busy = machine.step_seconds + exchange
    seconds = max(busy, decoding, reading)
    if seconds == busy:
        limit = "all-reduce" if exchange > machine.step_seconds else "computing"
    else:
        limit = "decoding" if decoding > reading else "reading"
    return {
        "devices": devices,
        "seconds": seconds,
        "exchange_seconds": exchange,
        "decoding_seconds": decoding,
        "reading_seconds": reading,
        "photos_per_second": devices * machine.batch_size / seconds,
        "efficiency": machine.step_seconds / seconds,
        "limit": limit,
    }


def bench_scale(
    recipe: Recipe, vgg_weights: Path | None, processes: Sequence[int] = (1, 2, 4), steps: int = 10
) -> ScaleBench:
    """Time steps in so many processes, each with one thread, on the CPUs of this machine."""
    found = [_launch(recipe, vgg_weights, count, steps) for count in processes]
    usable = cores()
    first = found[0]
    alone = (first["seconds"] - first["exchange_seconds"]) / max(1.0, processes[0] / usable)
    rows = []
    for count, seen in zip(processes, found, strict=True):
        expected = alone * max(1.0, count / usable) + seen["exchange_seconds"]
        rows.append(
            ScaleRow(
                processes=count,
                seconds=seen["seconds"],
                exchange_seconds=seen["exchange_seconds"],
                expected_seconds=expected,
                images_per_second=count * recipe.batch_size / seen["seconds"],
                efficiency=alone / seen["seconds"],
                sent_bytes=sent_bytes(seen["gradient_bytes"], count),
                loopback_bytes=seen["loopback_bytes"] // count,
            )
        )
    return ScaleBench(
        cores=usable,
        network=dict(recipe.network),
        batch_size=recipe.batch_size,
        image_size=recipe.image_size,
        gradient_bytes=first["gradient_bytes"],
        decoded_per_second=decoding_speed(recipe.image_size),
        rows=rows,
    )


def decoding_speed(size: int) -> float:
    """Return how many JPEG photos of 640x480 a core decodes, crops and resizes in a second."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PHOTOS):
            picture = Image.fromarray(dead_leaves(rng, size=max(PHOTO)))
            picture.crop((0, 0, *PHOTO)).save(Path(folder) / f"{number:03d}.jpg", quality=90)
        source = FolderPhotos(Path(folder), 0)
        source.strong = False  # few as they are, they stand for many
        photos = NumberedPhotos(source, size, 0)
        photos[0]
        began = time.process_time()  # of this process alone, on a machine that others use too
        for number in range(PHOTOS):
            photos[number]
        return PHOTOS / (time.process_time() - began)


def _launch(recipe: Recipe, vgg_weights: Path | None, processes: int, steps: int) -> dict[str, Any]:
    """Run this module in so many processes; return what the first one found."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        task = {
            "recipe": recipe.to_dict(),
            "vgg_weights": str(vgg_weights) if vgg_weights else None,
            "steps": steps,
            "result": str(result),
        }
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes), "-m", "faststyle.bench.scale"]
        done = subprocess.run(  # nosec B603  # our own module
            [*command, json.dumps(task)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if not result.is_file():
            # torchrun ends with words of its own.
            lines = done.stderr.strip().splitlines() or ["no message"]
            last = next((line for line in reversed(lines) if "Error: " in line), lines[-1])
            raise TrainingError(f"{processes} processes ended without a result: {last}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _work(task: dict[str, Any]) -> None:
    """Take steps in one of the processes; the first one writes the result."""
    set_threads(1)
    recipe = recipe_from_dict(task["recipe"])
    path = task["vgg_weights"]
    weights = find_weights(recipe.vgg, Path(path) if path else None)
    accelerator = open_accelerator(recipe, "cpu")
    painting = torch.rand(1, 3, recipe.painting_size, recipe.painting_size)
    loss = build_objective(recipe, [painting], weights)
    network = build_network(recipe.network).to(memory_format=torch.channels_last)
    step = TrainStep(accelerator, network, loss, recipe)
    photos = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    photos = photos.contiguous(memory_format=torch.channels_last)
    trained = [p for p in network.parameters() if p.requires_grad]
    trained += list(step.critic.nets.parameters()) if step.critic else []
    count = sum(p.numel() for p in trained)
    seconds = []
    before = 0
    for number in range(WARM_UP + task["steps"]):
        if number == WARM_UP:
            accelerator.wait_for_everyone()
            before = _loopback_bytes()
        began = time.perf_counter()
        step(photos, [0] * recipe.batch_size, number)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - began)
    accelerator.wait_for_everyone()
    sent = (_loopback_bytes() - before) // task["steps"]
    exchange = _exchange_seconds(accelerator, count)
    if accelerator.is_main_process:
        found = {
            "seconds": median(seconds),
            "exchange_seconds": exchange,
            "gradient_bytes": 4 * count,
            "loopback_bytes": sent,
        }
        Path(task["result"]).write_text(json.dumps(found))


def _exchange_seconds(accelerator: Accelerator, count: int) -> float:
    """Return the median time of an all-reduce of so many values."""
    if accelerator.num_processes == 1:
        return 0.0
    values = torch.rand(count)
    times = []
    for _ in range(WARM_UP + 5):
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        accelerator.reduce(values, "mean")
        times.append(time.perf_counter() - began)
    return median(times[WARM_UP:])


def _loopback_bytes() -> int:
    """Return the bytes that the loopback interface has sent; 0 where the system does not tell."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    counts = [line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:")]
    return int(counts[0][8]) if counts else 0


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
