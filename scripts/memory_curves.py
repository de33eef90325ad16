"""Measure the memory of long videos and of large pictures, and draw it.

    python scripts/memory_curves.py CHECKPOINT docs/pictures/memory.png --seconds 30 --sides 1024
    2048 4096 8192

Each is a `faststyle stylize` in a process of its own, whose resident memory is read ten times a
second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil
from PIL import Image

from faststyle.bench.videos import write_clip

TICK = 0.1  # seconds
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(720, 1280), help="of the video: height, width"
    )
    parser.add_argument("--sides", type=int, nargs="*", default=[1024, 2048, 4096, 8192])
    args = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, *args.size, args.seconds)
        seconds, used = watch(
            ["--style", str(args.checkpoint), str(clip), "-o", str(folder / "out.mp4")]
        )
        left.plot(seconds, used)
        print(
            f"video {args.seconds:g} s of {args.size}: {seconds[-1]:.0f} s, at most {max(used):.0f} MiB",
            flush=True,
        )
        sizes = []
        peaks = []
        for side in args.sides:
            photo = folder / "photo.tif"
            save_photo(photo, side)
            options = [
                "--tile",
                "1024",
                "--allow-huge",
                "--engine",
                "torch",
                "-o",
                str(folder / "out.tif"),
            ]
            seconds, used = watch(["--style", str(args.checkpoint), str(photo), *options])
            sizes.append(side * side / 1e6)
            peaks.append(max(used))
            print(
                f"picture {side}x{side}: {seconds[-1]:.0f} s, at most {max(used):.0f} MiB",
                flush=True,
            )
        right.plot(sizes, peaks, "o-")
    left.set(
        title=f"a video of {args.seconds:g} s",
        xlabel="seconds",
        ylabel="resident memory, MiB",
        ylim=(0, None),
    )
    right.set(
        title="pictures, by tiles of 1024 pixels",
        xlabel="million pixels",
        ylabel="peak, MiB",
        ylim=(0, None),
    )
    figure.savefig(args.output, dpi=100)


def save_photo(path: Path, side: int) -> None:
    """Write a photo of noise on a gradient; strip by strip is not needed to make it, only to read it."""
    ramp = np.linspace(0, 200, side, dtype=np.uint8)
    rgb = np.stack(
        [np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side))], 2
    )
    third = np.random.default_rng(0).integers(0, 256, (side, side, 1), np.uint8)
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    Image.fromarray(np.concatenate([rgb, third], 2)).save(path)
    Image.MAX_IMAGE_PIXELS = limit


def watch(arguments: list[str]) -> tuple[list[float], list[float]]:
    """Run `faststyle stylize` and return seconds and MiB. Raises: CalledProcessError."""
    process = subprocess.Popen([sys.executable, "-m", "faststyle.cli", "stylize", *arguments])
    began = time.monotonic()
    seconds = []
    used = []
    known = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            used.append(known.memory_info().rss / MIB)
        except psutil.NoSuchProcess:
            break
        seconds.append(time.monotonic() - began)
        time.sleep(TICK)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return seconds, used


if __name__ == "__main__":
    main()
