"""Where the weights of a network start from: the base that comes with the package, a checkpoint, or from scratch.

The base is a network for many generated paintings (scripts/train_base.py): what all of them need, strokes and
outlines, is there before the first step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from faststyle.checkpoint import load_checkpoint
from faststyle.errors import RecipeError
from faststyle.files import sha256
from faststyle.networks import network_options

BASE, SCRATCH = "base", "scratch"
KEY = "faststyle_base"  # the metadata entry of a base: JSON, with the network that it is for
PALETTE = "palette_"  # buffers that belong to a painting: a start from elsewhere leaves them as they are


class Origin(NamedTuple):
    """What weights bring along: the photos that they were trained on, and the sha256 of their base; "" for none."""

    photos: str = ""
    base: str = ""


def check_start(init: str, network: Mapping[str, Any]) -> None:
    """Raise RecipeError when there is no such start for a network of that name and those arguments."""
    if init == BASE:
        _base(network)
    elif init != SCRATCH and not Path(init).is_file():
        raise RecipeError(f"init is {BASE}, {SCRATCH} or a checkpoint; there is no file {init!r}")


def start_network(network: nn.Module, config: Mapping[str, Any], init: str) -> Origin:
    """Give `network`, as built from `config`, the weights to start from; the painting's palette stays.

    Who passes a checkpoint on must know what photos the start was trained on.
    Raises: RecipeError when there is no base for it, or the checkpoint's network is another one; CheckpointError.
    """
    if init == SCRATCH:
        return Origin()
    if init == BASE:
        path = _base(config)
        weights, origin = load_file(path), Origin(str(_about(path)["photos"]), sha256(path))
    else:
        other, about = load_checkpoint(Path(init))
        if network_options(about.network) != network_options(config):
            raise RecipeError(
                f"{init} holds another network, {network_options(about.network)}; this one is {network_options(config)}"
            )
        weights, origin = dict(other.state_dict()), Origin(about.photos, about.base)
    own: dict[str, Tensor] = network.state_dict()
    own |= {name: w.to(own[name].dtype) for name, w in weights.items() if not name.startswith(PALETTE)}
    network.load_state_dict(own)
    return origin


def _base(config: Mapping[str, Any]) -> Path:
    """Return the file of the base for a network. Raises: RecipeError when there is none."""
    wanted, known = network_options(config), []
    for path in sorted(Path(str(resources.files("faststyle.training") / "bases")).glob("*.safetensors")):
        found = network_options(_about(path)["network"])
        if found == wanted:
            return path
        known.append(" ".join(f"{key}={value}" for key, value in found.items()))
    raise RecipeError(f"no base fits this network; there is one for {'; '.join(known)}. Use --init {SCRATCH}")


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()[KEY])
    return about
