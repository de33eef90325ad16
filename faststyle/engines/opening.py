"""Open the engine that was asked for, or the fastest one of this machine.

Nothing falls back silently: a device, precision or engine that was asked for and is missing is an
error.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path

from torch import nn

from faststyle.checkpoint import About, load_checkpoint
from faststyle.devices import DEVICES, find_device, set_threads
from faststyle.engines.engine import Engine, Graph
from faststyle.engines.graph import NEEDS, cache_file, cached_graph, graph_properties, to_onnx
from faststyle.engines.onnxruntime_engine import OnnxRuntimeEngine
from faststyle.engines.openvino_engine import OpenVINOEngine
from faststyle.engines.options import ENGINES, EXTRAS, PRECISIONS, READERS, is_exported
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import CheckpointError, DeviceError, did_you_mean
from faststyle.extras import require

# The engines of a device, fastest first; measured on a CPU (docs/real-time.md).
FASTEST = {
    "cpu": ("openvino", "onnxruntime", "torch"),
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch", "onnxruntime"),
    "xpu": ("openvino", "torch"),
    "npu": ("openvino",),
}
GRAPH_ENGINES: dict[str, Callable[[Graph, str, str, int | None], Engine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVINOEngine,
}


def open_engine(
    source: Path | tuple[nn.Module, About],
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
    convert: bool = True,
) -> Engine:
    """Return an engine for a checkpoint, an exported .onnx or .xml file, or a network in memory.

    "auto" is the fastest engine that is installed and works. It runs on the accelerator of this
    machine if torch knows one, in bf16 where the hardware has it. The first start converts the
    network and keeps the result for the next. Without `convert`, auto takes no engine that would
    have to: a conversion takes longer than a few pictures do. `announce` is told of what takes
    time, and of an engine that is installed and does not work. Raises: CheckpointError; DeviceError
    for what is unknown, not installed, or not there.

    Example:
        >>> engine = open_engine(Path("checkpoints/nocturne.safetensors"))
        >>> engine(torch.rand(1, 3, 480, 848)).shape
        torch.Size([1, 3, 480, 848])
    """
    _check_name("engine", engine, ENGINES)
    _check_name("device", device, DEVICES)
    _check_name("precision", precision, PRECISIONS)
    set_threads(threads)
    if isinstance(source, Path) and is_exported(source):
        return _open_exported(source, engine, device, precision, threads)
    network: nn.Module
    if isinstance(source, Path):
        network, about = load_checkpoint(source)
        graph: Graph = functools.cache(lambda: cached_graph(network, about, source, announce))
    else:
        network, about = source
        graph = functools.cache(lambda: to_onnx(network, graph_properties(about, "unnamed")))
    if engine != "auto":
        return _open(engine, network, graph, device, precision, threads)
    device = _accelerator() if device == "auto" else device
    ready = convert or (isinstance(source, Path) and cache_file(network, source).is_file())
    names = [name for name in FASTEST[device] if _is_installed(name) and (ready or name == "torch")]
    refused: list[str] = []
    for name in names or FASTEST[device][:1]:
        try:
            opened = _open(name, network, graph, device, precision, threads)
        except DeviceError as error:
            refused.append(f"{name}: {error}")
            continue
        for line in refused:
            announce(f"not used here: {line}")
        return opened
    raise DeviceError("; ".join(refused))


def _check_name(field: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise DeviceError(f"`{field}` {name}: unknown.{did_you_mean(name, allowed)}")


def _open_exported(
    file: Path, engine: str, device: str, precision: str, threads: int | None
) -> Engine:
    readers = READERS[file.suffix]
    names = [name for name in readers if engine in ("auto", name)]
    if not names:
        raise DeviceError(
            f"`engine` {engine} does not read {file.suffix} files; {' or '.join(readers)} does"
        )
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    name = next((n for n in names if importlib.util.find_spec(n)), names[0])
    return GRAPH_ENGINES[name](lambda: file, device, precision, threads)


def _open(
    name: str, network: nn.Module, graph: Graph, device: str, precision: str, threads: int | None
) -> Engine:
    if name == "torch":
        return TorchEngine(network, device, precision)
    require(*NEEDS, extra=EXTRAS[name])
    return GRAPH_ENGINES[name](graph, device, precision, threads)


def _is_installed(name: str) -> bool:
    """Return whether an engine is worth trying on this machine."""
    if name == "openvino" and platform.machine().lower() not in ("x86_64", "amd64"):
        return False  # it runs on ARM too, where nobody has measured it
    return name == "torch" or all(importlib.util.find_spec(package) for package in (name, *NEEDS))


def _accelerator() -> str:
    """Return the accelerator of this machine if engines know it, else "cpu"."""
    name = find_device("auto").type
    return name if name in FASTEST else "cpu"
