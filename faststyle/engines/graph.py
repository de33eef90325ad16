"""A network as an ONNX graph: every engine but torch reads it, and every export is made from it.

deploy.py rearranges networks for the conversion. export.py writes files for other programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import faststyle
from faststyle.checkpoint import About
from faststyle.engines import deploy
from faststyle.errors import DeviceError, OutputError
from faststyle.extras import require
from faststyle.files import cache_folder, sha256, write_bytes

# names in the graph
INPUT = "photo"
OUTPUT = "stylized"
NEEDS = ("onnx", "onnxscript")  # packages that a conversion needs
# The batch to trace with. Its numbers appear nowhere else in a graph, so that tests can find out
# whether one of them was kept as a constant.
EXAMPLE = (2, 3, 97, 131)


def graph_properties(
    about: About, style: str, checkpoint_sha256: str = "", size: tuple[int, int] | None = None
) -> dict[str, str]:
    """Return the metadata of a graph: where it came from, its licence, and how to call it."""
    shape = f"1, 3, {size[0]}, {size[1]}" if size else "batch, 3, height, width"
    return {
        "style": style,
        "network": json.dumps(dict(about.network), sort_keys=True),
        "painting": str(about.painting.get("file", "")),
        "license": about.license,
        "faststyle_version": faststyle.__version__,
        "checkpoint_sha256": checkpoint_sha256,
        "input": f"RGB float32 ({shape}) in [0, 1]",
    }


def to_onnx(
    network: nn.Module, properties: Mapping[str, str], size: tuple[int, int] | None = None
) -> bytes:
    """Return the ONNX file of a network, its batch, height and width left open.

    With `size` it takes one photo of that height and width. Its graph then has no arithmetic of
    sizes, which OpenCV and others cannot run.

    Raises: DeviceError when onnx or onnxscript is not installed, or torch cannot export this
    network.
    """
    require(*NEEDS, extra="onnx")
    network = deploy.AnySize(deploy.for_engines(network)).eval()
    example = EXAMPLE if size is None else (1, 3, *size)
    open_sizes = None if size else ({0: "batch", 2: "height", 3: "width"},)
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.aten.group_norm.default: _group_norm
    }
    try:
        program = torch.onnx.export(
            network,
            (torch.rand(example),),
            dynamo=True,
            dynamic_shapes=open_sizes,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=table,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).split("\n")[0]  # there are several screens of it
        raise DeviceError(
            f"torch {torch.__version__} cannot export this network to ONNX: {reason}"
        ) from error
    assert program is not None  # None comes with a file name only
    # Stack traces and scopes hold paths of this machine, which nobody else needs.
    program.model.graph.metadata_props.clear()
    for node in program.model.graph:
        node.metadata_props.clear()
    program.model.metadata_props.update(properties)
    data: bytes = program.model_proto.SerializeToString()
    return data


def cache_file(network: nn.Module, checkpoint: Path) -> Path:
    """Return the place in the cache of a checkpoint's ONNX file; there may be no file yet."""
    return cache_folder() / "graphs" / f"{checkpoint.stem}-{_key(network, sha256(checkpoint))}.onnx"


def cached_graph(
    network: nn.Module,
    about: About,
    checkpoint: Path,
    announce: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the ONNX file of a checkpoint, from the cache or converted now.

    `announce` is called with a line before a conversion. Raises: DeviceError as `to_onnx`.
    """
    file = cache_file(network, checkpoint)
    if is_whole(file):
        with contextlib.suppress(OSError):  # another process may replace it now
            return file.read_bytes()
    announce(f"converting {checkpoint.stem}, once")
    data = to_onnx(network, graph_properties(about, checkpoint.stem, sha256(checkpoint)))
    try:
        write_bytes(file, data)
        seal(file)
    except OutputError as error:  # a cache that cannot be written must not end the run
        announce(f"the converted network is not kept: {error}")
    return data


def seal(*files: Path) -> None:
    """Write the hashes of converted files beside the first one. Raises: OutputError.

    A file that was cut or changed does not have its hash any more (`is_whole`), and is made again.
    """
    write_bytes(_seal_file(files[0]), _hashes(files).encode())


def is_whole(*files: Path) -> bool:
    """Return whether converted files are there and as they were when they were sealed."""
    try:
        return _seal_file(files[0]).read_text() == _hashes(files)
    except (OSError, ValueError):
        return False


def _seal_file(file: Path) -> Path:
    return file.with_suffix(f"{file.suffix}.sha256")


def _hashes(files: tuple[Path, ...]) -> str:
    """Return the hashes of files in the format of sha256sum."""
    return "".join(f"{sha256(file)}  {file.name}\n" for file in files)


def _key(network: nn.Module, digest: str) -> str:
    """Return a hash of everything that a graph depends on: weights, code and versions."""
    # A network may take most of its layers from the class that it extends.
    kinds = [kind for kind in type(network).__mro__ if kind.__module__.startswith("faststyle.")]
    modules = [inspect.getfile(kind) for kind in kinds or [type(network)]]
    code = (*modules, deploy.__file__, __file__)
    parts = (digest, faststyle.__version__, torch.__version__, *map(sha256, code))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]


def _group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Write a group normalisation as ONNX's instance normalisation.

    Where each group is one channel, the two are the same. torch's own translation adds two
    reshapes, a product and a sum to each norm, a sixth of the time of the whole network.
    """
    op = require("onnxscript", extra="onnx").opset18
    if weight is not None and x.shape[1] == num_groups:
        return op.InstanceNormalization(x, weight, bias, epsilon=eps)
    ones = op.Constant(value_floats=[1.0] * num_groups)
    zeros = op.Constant(value_floats=[0.0] * num_groups)
    groups = op.Reshape(x, op.Constant(value_ints=[0, num_groups, -1]))
    y = op.Reshape(op.InstanceNormalization(groups, ones, zeros, epsilon=eps), op.Shape(x))
    if weight is None:
        return y
    channels = op.Constant(value_ints=[-1, 1, 1])
    return op.Add(op.Mul(y, op.Reshape(weight, channels)), op.Reshape(bias, channels))
