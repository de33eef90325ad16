"""Measure the memory that a long video and large pictures take to stylize, and plot it.

    python scripts/memory_curves.py CHECKPOINT docs/pictures/memory.png --seconds 30 \\
        --sides 1024 2048 4096 8192

Each is a `faststyle stylize` in its own process. Its resident memory is read ten times a second.
"""

from __future__ import annotations

import argparse
import subprocess  # nosec B404
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
from PIL import Image

from faststyle.bench.videos import write_clip

INTERVAL = 0.1  # seconds between two readings of memory
MIB = 1 << 20
TILE = 1024  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=30, help="length of the video")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(720, 1280), help="of the video: height, width"
    )
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[1024, 2048, 4096, 8192], help="of the pictures"
    )
    args = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    with tempfile.TemporaryDirectory() as name:
        plot_video(left, args.checkpoint, Path(name), args.size, args.seconds)
        plot_pictures(right, args.checkpoint, Path(name), args.sides)
    figure.savefig(args.output, dpi=100)


def plot_video(
    axes: Any, checkpoint: Path, folder: Path, size: tuple[int, int], length: float
) -> None:
    """Stylize a video of `length` seconds, and plot the memory over time."""
    clip = folder / "clip.mp4"
    write_clip(clip, *size, length)
    seconds, used = watch([str(clip), "--style", str(checkpoint), "-o", str(folder / "out.mp4")])
    print(
        f"video {length:g} s of {size}: {seconds[-1]:.0f} s, at most {max(used):.0f} MiB",
        flush=True,
    )
    axes.plot(seconds, used)
    axes.set(
        title=f"a video of {length:g} s",
        xlabel="seconds",
        ylabel="resident memory, MiB",
        ylim=(0, None),
    )


def plot_pictures(axes: Any, checkpoint: Path, folder: Path, sides: list[int]) -> None:
    """Stylize a picture of each side by tiles, and plot the largest memory over the size."""
    sizes = []
    peaks = []
    photo = folder / "photo.tif"
    options = ["--tile", str(TILE), "--allow-huge", "--engine", "torch"]
    for side in sides:
        save_photo(photo, side)
        target = str(folder / "out.tif")
        seconds, used = watch(
            [str(photo), "--style", str(checkpoint), *options, "-o", target, "--overwrite"]
        )
        sizes.append(side * side / 1e6)
        peaks.append(max(used))
        print(
            f"picture {side}x{side}: {seconds[-1]:.0f} s, at most {max(used):.0f} MiB",
            flush=True,
        )
    axes.plot(sizes, peaks, "o-")
    axes.set(
        title=f"pictures, by tiles of {TILE} pixels",
        xlabel="million pixels",
        ylabel="peak, MiB",
        ylim=(0, None),
    )


def save_photo(path: Path, side: int) -> None:
    """Write a photo of noise on a gradient. Its memory does not count: it is of this process."""
    ramp = np.linspace(0, 200, side, dtype=np.uint8)
    rgb = np.stack(
        [np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side))], 2
    )
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 1), np.uint8)
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # else Pillow takes large pictures for an attack
    Image.fromarray(np.concatenate([rgb, noise], 2)).save(path)
    Image.MAX_IMAGE_PIXELS = limit


def watch(arguments: list[str]) -> tuple[list[float], list[float]]:
    """Run `faststyle stylize`; return the times of readings in seconds, and memory in MiB.

    Raises: CalledProcessError.
    """
    process = subprocess.Popen([sys.executable, "-m", "faststyle.cli", "stylize", *arguments])  # nosec B603
    began = time.monotonic()
    seconds = []
    used = []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            used.append(watched.memory_info().rss / MIB)
        except psutil.NoSuchProcess:  # it ended just now
            break
        seconds.append(time.monotonic() - began)
        time.sleep(INTERVAL)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return seconds, used


if __name__ == "__main__":
    main()
