"""A style's network for the page: an ONNX file whose weights are stored in 8 bits.

The network computes in float32, as everywhere. Only its weights are stored with fewer bits, and
the runtime makes them float32 again when it loads the file. The pictures are compared with torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faststyle.checkpoint import About, load_checkpoint
from faststyle.engines.engine import Engine
from faststyle.engines.export import CHECKED_SIZES, ExportError
from faststyle.engines.graph import NEEDS, cached_graph
from faststyle.engines.onnxruntime_engine import OnnxRuntimeEngine
from faststyle.engines.options import EXTRAS, EngineOptions
from faststyle.engines.torch_engine import TorchEngine
from faststyle.extras import require
from faststyle.files import write_bytes
from faststyle.images import read_image
from faststyle.sizes import resize
from faststyle.training.photos import held_out_photos

MAX_DIFFERENCE = 3 / 255  # of any value of a picture
# Convolutions with so few channels see colours or write pixels. They keep 16 bits.
PIXEL_CHANNELS = 12
LEVELS = 127  # of 8 bits, each way from zero
PROBE_SIDE = 32  # pixels: side of the test picture of the page (page/probe.js)
PROBE_CELL = 8  # pixels: its expected result is means over squares of this side


@dataclass(frozen=True)
class WebModel:
    """A network for the page.

    `precision` is that of most weights, int8 or float16. `difference` is the largest difference
    from torch in float32 of any value in [0, 1] of the photos that were compared, `mean` the mean.
    `probe` is what the test picture becomes: means over 8x8 pixels, (3, 4, 4) in one row.
    """

    data: bytes
    about: About
    precision: str
    difference: float
    mean: float
    probe: tuple[float, ...]


def web_model(
    checkpoint: Path, folder: Path, announce: Callable[[str], None] = lambda _: None
) -> WebModel:
    """Return the network of a checkpoint for the page.

    Weights are stored in 8 bits, and in 16 where 8 change the pictures too much. `folder` is for
    temporary files. Raises: ExportError when 16 bits are too few as well; CheckpointError;
    DeviceError for a package that is not installed, or an export that torch cannot make.
    """
    require(*NEEDS, "onnxruntime", extra=EXTRAS["onnxruntime"])
    network, about = load_checkpoint(checkpoint)
    graph = cached_graph(network, about, checkpoint, announce)
    reference = TorchEngine(network, EngineOptions(device="cpu", precision="float32"))
    photos = [
        torch.cat([resize(read_image(path), h, w) for path in held_out_photos()])
        for h, w in CHECKED_SIZES
    ]
    expected = [reference(batch) for batch in photos]
    probe = tuple(round(value, 5) for value in _probe_means(reference(probe_picture())))
    found = ""
    for precision in ("int8", "float16"):
        data = with_small_weights(graph, precision)
        file = folder / f"{precision}.onnx"
        write_bytes(file, data)
        difference, mean = _compare(_open(file), photos, expected)
        file.unlink()
        if difference <= MAX_DIFFERENCE:  # NaN is not
            return WebModel(data, about, precision, difference, mean, probe)
        found = f"{255 * difference:.1f} of 255 levels off with weights in {precision}"
    raise ExportError(
        f"nothing written: {checkpoint.stem} does not paint what torch paints, {found}; "
        f"{255 * MAX_DIFFERENCE:.0f} are allowed"
    )


def probe_picture() -> Tensor:
    """Return the test picture of the page, (1, 3, 32, 32): the same formula is in page/probe.js."""
    c, y, x = np.meshgrid(*map(np.arange, (3, PROBE_SIDE, PROBE_SIDE)), indexing="ij")
    return torch.from_numpy((35 * x + 65 * y + 145 * c) % 256)[None].float().div(255)


def _probe_means(painted: Tensor) -> list[float]:
    means: list[float] = torch.nn.functional.avg_pool2d(painted, PROBE_CELL).flatten().tolist()
    return means


def _open(file: Path) -> Engine:
    return OnnxRuntimeEngine(lambda: file, EngineOptions(device="cpu"))


def _compare(engine: Engine, photos: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of an engine's pictures."""
    off = torch.cat(
        [
            (engine(batch) - wanted).abs().flatten()
            for batch, wanted in zip(photos, expected, strict=True)
        ]
    )
    return float(off.max()), float(off.mean())


def with_small_weights(graph: bytes, precision: str) -> bytes:
    """Return an ONNX file with the weights of its convolutions in fewer bits.

    A Cast, and in int8 a product with a scale for each output channel, makes them float32 again.
    Runtimes do so once, when they load the file. The convolutions that see colours or write pixels
    are in float16 always.
    """
    onnx = require("onnx", extra="onnx")
    model = onnx.load_from_string(graph)
    nodes = []
    for tensor in list(model.graph.initializer):
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.ndim != 4:
            continue
        name = tensor.name
        model.graph.initializer.remove(tensor)
        if precision == "float16" or min(weight.shape[:2]) <= PIXEL_CHANNELS:
            stored = {f"{name}/half": weight.astype(np.float16)}
            nodes.append(_cast(f"{name}/half", name))
        else:
            levels, scale = quantize(weight)
            stored = {f"{name}/levels": levels, f"{name}/scale": scale}
            nodes.append(_cast(f"{name}/levels", f"{name}/whole"))
            nodes.append(onnx.helper.make_node("Mul", [f"{name}/whole", f"{name}/scale"], [name]))
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, key) for key, array in stored.items()
        )
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    del model.graph.value_info[:]  # shapes in between, which every runtime finds by itself
    entry = model.metadata_props.add()
    entry.key = "weights"
    entry.value = precision
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def quantize(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a weight (O, I, K, K) in 8 bits, and its scales (O, 1, 1, 1): symmetric, by output."""
    scale = np.abs(weight).max((1, 2, 3), keepdims=True) / LEVELS
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def _cast(source: str, target: str) -> Any:
    onnx = require("onnx", extra="onnx")
    return onnx.helper.make_node("Cast", [source], [target], to=onnx.TensorProto.FLOAT)
