"""Open the engine that was asked for, or the fastest one of this machine.

Nothing falls back silently: a device, precision or engine that was asked for and is missing is an
error.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from faststyle.checkpoint import About, load_checkpoint
from faststyle.devices import find_device, set_threads
from faststyle.engines.engine import Engine, Graph
from faststyle.engines.graph import (
    NEEDS,
    cache_file,
    cached_graph,
    graph_properties,
    is_whole,
    to_onnx,
)
from faststyle.engines.onnxruntime_engine import OnnxRuntimeEngine
from faststyle.engines.openvino_engine import OpenVINOEngine
from faststyle.engines.options import AUTO, EXTRAS, READERS, EngineOptions, is_exported
from faststyle.engines.torch_engine import TorchEngine
from faststyle.engines.verify import verify, verify_exported
from faststyle.errors import CheckpointError, DeviceError, OutputError
from faststyle.extras import require

# The engines of a device, fastest first; measured on a CPU (docs/real-time.md).
FASTEST = {
    "cpu": ("openvino", "onnxruntime", "torch"),
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch", "onnxruntime"),
    "xpu": ("openvino", "torch"),
    "npu": ("openvino",),
}
GRAPH_ENGINES: dict[str, Callable[[Graph, EngineOptions], Engine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVINOEngine,
}


def open_engine(
    source: Path | tuple[nn.Module, About],
    options: EngineOptions = AUTO,
    announce: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Return an engine for a checkpoint, an exported .onnx or .xml file, or a network in memory.

    "auto" is the fastest engine that is installed and works. It runs on the accelerator of this
    machine if torch knows one, in bf16 where the hardware has it. A network is converted once and
    kept in the cache. So is the int8 export of a checkpoint. `announce` is called with a line
    before each slow step, and for an engine that is installed and does not work. Each engine but
    torch in float32 is compared with it once (verify.py).

    Raises: CheckpointError; DeviceError for an engine that is not installed, for a device or
    precision that is not there, and for an engine that was asked for and does not paint the
    picture of torch; for int8 the errors of `export_checkpoint`.

    Example:
        >>> engine = open_engine(Path("checkpoints/nocturne.safetensors"))
        >>> engine(torch.rand(1, 3, 480, 848)).shape
        torch.Size([1, 3, 480, 848])
    """
    set_threads(options.threads)
    if options.precision == "int8":
        return _open_int8(source, options, announce)
    if isinstance(source, Path) and is_exported(source):
        return _open_exported(source, options)
    network: nn.Module
    # The graph is made when an engine asks for it, and only once when several engines are tried.
    if isinstance(source, Path):
        network, about = load_checkpoint(source)
        graph: Graph = functools.cache(lambda: cached_graph(network, about, source, announce))
    else:
        network, about = source
        graph = functools.cache(lambda: to_onnx(network, graph_properties(about, "unnamed")))
    converted = cache_file(network, source) if isinstance(source, Path) else None

    def open_verified(name: str, options: EngineOptions) -> Engine:
        engine = _open_by_name(name, network, graph, options)
        verify(engine, network, converted)
        return engine

    if options.engine != "auto":
        return open_verified(options.engine, options)
    # A graph that is in the cache costs no time, so auto may use it for a single picture too.
    may_convert = options.convert or (converted is not None and is_whole(converted))
    return _open_fastest(open_verified, options, may_convert, announce)


def _open_int8(
    source: Path | tuple[nn.Module, About],
    options: EngineOptions,
    announce: Callable[[str], None],
) -> Engine:
    """Return OpenVINO with the int8 export of a checkpoint, made now if it is not in the cache."""
    if not isinstance(source, Path):
        raise DeviceError("`precision` int8: for checkpoints only, not for networks in memory")
    # Here, because the photos of an export import torchvision, which takes two seconds.
    from faststyle.engines.export import export_checkpoint, int8_file

    # The file says that it is int8. "auto" is the precision of the operations that stay in float.
    options = replace(options, engine="openvino", precision="auto")
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        try:
            file = int8_file(source, announce)
            converted = file
        except OutputError as error:  # a cache that cannot be written must not end the run
            announce(f"the converted network is not kept: {error}")
            file = Path(folder) / "int8.xml"
            export_checkpoint(source, file, "openvino", int8=True)
            converted = None
        engine = _read_exported(file, options)
    verify(engine, load_checkpoint(source)[0], converted)
    return engine


def _open_exported(file: Path, options: EngineOptions) -> Engine:
    """Return an engine for a file that somebody exported, after a look at what it paints."""
    engine = _read_exported(file, options)
    verify_exported(engine, file)
    return engine


def _read_exported(file: Path, options: EngineOptions) -> Engine:
    readers = READERS[file.suffix]
    names = [name for name in readers if options.engine in ("auto", name)]
    if not names:
        raise DeviceError(
            f"`engine` {options.engine} does not read {file.suffix} files; "
            f"{' or '.join(readers)} does"
        )
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    # Where none is installed, the first one raises the error that names its extra.
    name = next((n for n in names if importlib.util.find_spec(n)), names[0])
    return GRAPH_ENGINES[name](lambda: file, options)


def _open_fastest(
    open_verified: Callable[[str, EngineOptions], Engine],
    options: EngineOptions,
    may_convert: bool,
    announce: Callable[[str], None],
) -> Engine:
    """Return the fastest engine that works; without `may_convert`, torch, which reads no graph.

    Raises: DeviceError when none works, with the reason of each.
    """
    device = _accelerator() if options.device == "auto" else options.device
    options = replace(options, device=device)
    names = [
        name for name in FASTEST[device] if _is_installed(name) and (may_convert or name == "torch")
    ]
    # Without any, the fastest is tried, for its error says what to install.
    ways = [(name, options) for name in names or FASTEST[device][:1]]
    if options.precision == "auto" and "torch" in names:  # where its bf16 paints another picture
        ways.insert(names.index("torch") + 1, ("torch", replace(options, precision="float32")))
    refused: list[str] = []
    for name, way in ways:
        try:
            opened = open_verified(name, way)
        except DeviceError as error:
            refused.append(f"{name}: {error}")
            continue
        for line in refused:
            announce(f"not used here: {line}")
        return opened
    raise DeviceError("; ".join(dict.fromkeys(refused)))


def _open_by_name(name: str, network: nn.Module, graph: Graph, options: EngineOptions) -> Engine:
    if name == "torch":
        return TorchEngine(network, options)
    require(*NEEDS, extra=EXTRAS[name])  # for the conversion to a graph
    return GRAPH_ENGINES[name](graph, options)


def _is_installed(name: str) -> bool:
    """Return whether an engine is worth trying on this machine."""
    if name == "openvino" and platform.machine().lower() not in ("x86_64", "amd64"):
        return False  # it runs on ARM too, where nobody has measured it
    return name == "torch" or all(importlib.util.find_spec(package) for package in (name, *NEEDS))


def _accelerator() -> str:
    """Return the accelerator of this machine if engines know it, else "cpu"."""
    name = find_device("auto").type
    return name if name in FASTEST else "cpu"
