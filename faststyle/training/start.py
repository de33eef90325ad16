"""Where the weights of a network start from: the base that comes with the package, a checkpoint, or from scratch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from faststyle.checkpoint import load_checkpoint
from faststyle.errors import RecipeError
from faststyle.networks import network_options

KEY = "faststyle_base"  # the metadata entry of a base: JSON, with the network that it is for
PALETTE = "palette_"  # buffers that belong to a painting: a start from elsewhere leaves them as they are


def check_start(init: str, network: Mapping[str, Any]) -> None:
    """Raise RecipeError when there is no such start for a network of that name and those arguments."""
    if init == "base":
        _base(network)
    elif init != "scratch" and not Path(init).is_file():
        raise RecipeError(f"init is base, scratch or a checkpoint; there is no file {init!r}")


def start_network(network: nn.Module, config: Mapping[str, Any], init: str) -> None:
    """Give `network`, as built from `config`, the weights to start from; the painting's palette stays.

    Raises: RecipeError when there is no base for it, or the checkpoint's network is another one; CheckpointError.
    """
    if init == "scratch":
        return
    if init == "base":
        weights = load_file(_base(config))
    else:
        other, about = load_checkpoint(Path(init))
        if network_options(about.network) != network_options(config):
            raise RecipeError(
                f"{init} holds another network, {network_options(about.network)}; this one is {network_options(config)}"
            )
        weights = dict(other.state_dict())
    own: dict[str, Tensor] = network.state_dict()
    own |= {name: w.to(own[name].dtype) for name, w in weights.items() if not name.startswith(PALETTE)}
    network.load_state_dict(own)


def _base(config: Mapping[str, Any]) -> Path:
    """Return the file of the base for a network. Raises: RecipeError when there is none."""
    wanted = network_options(config)
    folder = Path(str(resources.files("faststyle.training") / "bases"))
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[KEY])
        if network_options(about["network"]) == wanted:
            return path
    raise RecipeError(f"there is no base for the network {wanted}; use --init scratch")
