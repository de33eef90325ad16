"""Convert networks that others trained: state dicts of PyTorch's example fast_neural_style.

The checkpoint that is written holds the network `pytorch_example`, and works with every command.
Source: https://github.com/pytorch/examples, fast_neural_style, `TransformerNet`
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import faststyle
from faststyle.checkpoint import SUFFIX, About, save_checkpoint
from faststyle.errors import CheckpointError, OutputError, RecipeError
from faststyle.files import check_free, sha256
from faststyle.networks import build_network

NAME = "pytorch_example"
LICENSE = "unknown: that of the file"
EXPECTED = "expected is the state dict of TransformerNet, from PyTorch's example fast_neural_style"
LEVELS = 255.0  # the example takes and gives values in [0, 255]
WRAPPERS = ("state_dict", "model_state_dict")
PARALLEL = "module."  # the prefix that nn.DataParallel adds
# Statistics that instance normalisation does not use; the example's own loader drops them too.
DROPPED = ("running_mean", "running_var", "num_batches_tracked")
# Convolutions and norms outside of the residual blocks: the example's names, and ours.
PLACES = {
    "conv1.conv2d": "encode1.0",
    "in1": "encode1.1",
    "conv2.conv2d": "encode2.0",
    "in2": "encode2.1",
    "conv3.conv2d": "encode3.0",
    "in3": "encode3.1",
    "deconv1.conv2d": "decode1.0",
    "in4": "decode1.1",
    "deconv2.conv2d": "decode2.0",
    "in5": "decode2.1",
    "deconv3.conv2d": "head",
}
BLOCK_PLACES = {
    "conv1.conv2d": "first.0",
    "in1": "first.1",
    "conv2.conv2d": "second.0",
    "in2": "second.1",
}


@dataclass(frozen=True)
class Converted:
    """A checkpoint that was written, and the configuration of its network."""

    source: Path
    file: Path
    network: Mapping[str, Any]
    sha256: str


def convert_checkpoint(
    source: Path, output: Path, bgr: bool = False, overwrite: bool = False
) -> Converted:
    """Write the checkpoint `output` from a state dict of others, whole or not at all.

    `source` is a file of `torch.save`. It is read with `weights_only`, so no code in it runs. `bgr`
    is for networks that take and give blue before red. `overwrite` replaces a checkpoint that is
    there. Raises: CheckpointError for a file that
    cannot be read or holds another network; OutputError.

    Example:
        >>> convert_checkpoint(Path("mosaic.pth"), Path("checkpoints/mosaic.safetensors"))
    """
    if output.suffix != SUFFIX:
        raise OutputError(f"`output` {output}: the name of a checkpoint ends in {SUFFIX}")
    check_free(output, overwrite)
    state = _clean(_read(source), source)
    blocks = sum(f"res{n}.conv1.conv2d.weight" in state for n in range(1, len(state)))
    config = {"name": NAME, "width": _channels(state, source), "blocks": blocks}
    try:
        with torch.device("meta"):  # shapes without memory: these numbers come from a file
            network = build_network(config)
    except RecipeError as error:
        raise CheckpointError(f"{source}: {error}") from None
    weights = _renamed(state, blocks, network.state_dict(), source)
    # The factor 255 and the order of colours, in the weights of both ends.
    weights["encode1.0.weight"] *= LEVELS
    weights["head.weight"] /= LEVELS
    weights["head.bias"] /= LEVELS
    if bgr:
        weights["encode1.0.weight"] = weights["encode1.0.weight"].flip(1)
        weights["head.weight"] = weights["head.weight"].flip(0)
        weights["head.bias"] = weights["head.bias"].flip(0)
    network.load_state_dict(weights, assign=True)
    digest = sha256(source)
    about = About(
        config,
        painting={},
        vgg={},
        photos="",
        recipe={},
        versions={"faststyle": faststyle.__version__},
        license=LICENSE,
        source={"file": source.name, "sha256": digest},
    )
    save_checkpoint(output, network, about)
    return Converted(source, output, config, digest)


def _read(source: Path) -> Any:
    """Return the contents of a file of `torch.save`. Raises: CheckpointError."""
    if not os.path.isfile(source):  # unlike is_file, it takes names that are too long
        raise CheckpointError(f"{source}: no such file")
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds for damaged files
        reason = " ".join(str(error).split())
    if "Unsupported" in reason or "TorchScript" in reason:
        raise CheckpointError(
            f"{source}: holds more than weights, and could run any code (pickle), so it is not "
            "read; save the weights alone, with torch.save(network.state_dict(), FILE)"
        )
    raise CheckpointError(f"{source}: damaged, or not a file of torch.save; {EXPECTED}")


def _clean(found: Any, source: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, without wrappers, prefixes and statistics that are unused.

    Raises: CheckpointError where there is none.
    """
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{source}: holds no state dict; {EXPECTED}")
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{source}: {key!r} is not a tensor with a name; {EXPECTED}")
        name = key.removeprefix(PARALLEL)
        if not name.endswith(DROPPED):
            state[name] = value
    return state


def _channels(state: Mapping[str, Tensor], source: Path) -> int:
    """Return the number of channels of the first convolution. Raises: CheckpointError."""
    key = "conv1.conv2d.weight"
    if key not in state:
        raise CheckpointError(f"{source}: has no {key!r}; {EXPECTED}")
    shape = tuple(state[key].shape)
    if len(shape) != 4 or shape[1:] != (3, 9, 9):
        raise CheckpointError(f"{source}: {key!r} is {shape}, not (channels, 3, 9, 9); {EXPECTED}")
    return shape[0]


def _places(blocks: int) -> Iterator[tuple[str, str]]:
    """Yield the names of all convolutions and norms: the example's, and ours."""
    yield from PLACES.items()
    for n in range(blocks):
        for theirs, ours in BLOCK_PLACES.items():
            yield f"res{n + 1}.{theirs}", f"trunk.{n}.{ours}"


def _renamed(
    state: Mapping[str, Tensor], blocks: int, wanted: Mapping[str, Tensor], source: Path
) -> dict[str, Tensor]:
    """Return the tensors under our names, as copies in float32.

    `wanted` has the names and shapes of our network. Raises: CheckpointError for a tensor that is
    missing, too much, of another shape, or not finite.
    """
    names = {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in _places(blocks)
        for kind in ("weight", "bias")
    }
    if missing := [key for key in names if key not in state]:
        raise CheckpointError(f"{source}: has no {missing[0]!r}; {EXPECTED}")
    if surplus := [key for key in state if key not in names]:
        raise CheckpointError(f"{source}: {surplus[0]!r} is of another network; {EXPECTED}")
    weights = {}
    for theirs, ours in names.items():
        shape = tuple(wanted[ours].shape)
        got = tuple(state[theirs].shape)
        if got != shape:
            raise CheckpointError(f"{source}: {theirs!r} is {got}, not {shape}; {EXPECTED}")
        weights[ours] = state[theirs].to(torch.float32, copy=True)
        if not bool(weights[ours].isfinite().all()):
            raise CheckpointError(f"{source}: {theirs!r} has values that are not finite")
    return weights
