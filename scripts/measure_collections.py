"""Measure collections, for docs/scale_stylizing.md: files a second, and batches of pictures.

python scripts/measure_collections.py files    # 1 process, 2 processes, Ray with 2 workers
python scripts/measure_collections.py batches  # seconds a picture, alone and in batches of one size
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess  # nosec B404
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from skimage import data

from faststyle.checkpoint import find_checkpoint
from faststyle.engines.opening import open_engine
from faststyle.engines.options import EngineOptions

ROOT = Path(__file__).parents[1]
PHOTOS = 200
BATCHES = (1, 4, 8)
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
WAYS = {
    "1 process": [],
    "2 processes": TORCHRUN,
    "Ray, 2 workers": ["--ray", "local"],
}


def write_photos(folder: Path) -> None:
    """Write crops of a photo, 256 x 256 pixels, as JPEG files."""
    photo = Image.fromarray(data.astronaut())
    for i in range(PHOTOS):
        left = 7 * i % 256
        top = 13 * i % 256
        photo.crop((left, top, left + 256, top + 256)).save(folder / f"{i:03d}.jpg")


def measure_files(style: str, rounds: int) -> None:
    """Print files a second of each way: the median of interleaved rounds, one thread a process."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        write_photos(folder / "photos")
        for turn in range(rounds):
            for way, options in WAYS.items():
                launcher = options if options == TORCHRUN else []
                command = [sys.executable, *launcher, str(ROOT / "stylize.py"), "photos"]
                command += ["--style", style, "-o", f"out-{way}-{turn}", "--threads", "1"]
                command += ["--report", "report.json", *(options if not launcher else [])]
                began = time.monotonic()
                subprocess.run(  # nosec B603
                    command,
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    check=True,
                    capture_output=True,
                )
                report = json.loads((folder / "report.json").read_text())
                found[way].append(report["files_per_second"])
                print(f"{way}: {found[way][-1]} files/s, {time.monotonic() - began:.0f} s in all")
    for way, rates in found.items():
        print(f"| {way} | {statistics.median(rates):.1f} files/s |")


def measure_batches(style: str, rounds: int) -> None:
    """Print milliseconds a picture, and the speed over one by one, on each engine of the CPU."""
    for name in ("torch", "onnxruntime", "openvino"):
        engine = open_engine(find_checkpoint(style), EngineOptions(name, "cpu", threads=1))
        for side in (256, 512):
            photos = torch.rand(max(BATCHES), 3, side, side)
            clocks = {"wall": time.perf_counter, "CPU": time.process_time}
            times: dict[str, dict[int, list[float]]] = {
                clock: {size: [] for size in BATCHES} for clock in clocks
            }
            with torch.no_grad():
                for turn in range(rounds + 1):
                    for size in BATCHES:
                        began = {clock: read() for clock, read in clocks.items()}
                        for part in photos.split(size):
                            engine(part)
                        if turn:  # the first one warms up
                            for clock, read in clocks.items():
                                times[clock][size].append(read() - began[clock])
            for clock, found in times.items():
                alone = found[1]
                speeds = {
                    size: statistics.median(a / b for a, b in zip(alone, seconds, strict=True))
                    for size, seconds in found.items()
                }
                each = 1000 * statistics.median(alone) / len(photos)
                shown = ", ".join(f"{size}: {speed:.2f}" for size, speed in speeds.items())
                print(f"{name} {engine.precision} {side} px, {clock}: {each:.0f} ms alone; {shown}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("files", "batches"))
    parser.add_argument("--style", default="the_scream")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measure = {"files": measure_files, "batches": measure_batches}[arguments.what]
    measure(arguments.style, arguments.rounds)


if __name__ == "__main__":
    main()
