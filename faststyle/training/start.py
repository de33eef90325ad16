"""Where the weights of a network start from: a checkpoint of the same network, or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from faststyle.checkpoint import load_checkpoint
from faststyle.errors import RecipeError
from faststyle.networks import network_options

SCRATCH = "scratch"
PALETTE = "palette_"  # buffers that belong to a painting: a start from another one leaves them as they are


def check_start(init: str) -> None:
    """Raise RecipeError when there is no such start."""
    if init != SCRATCH and not Path(init).is_file():
        raise RecipeError(f"init is {SCRATCH} or a checkpoint; there is no file {init!r}")


def start_network(network: nn.Module, config: Mapping[str, Any], init: str) -> None:
    """Give `network`, as built from `config`, the weights to start from; the painting's palette stays.

    Raises: RecipeError when the checkpoint's network is another one; CheckpointError.
    """
    if init == SCRATCH:
        return
    other, about = load_checkpoint(Path(init))
    if network_options(about.network) != network_options(config):
        raise RecipeError(
            f"{init} holds another network, {network_options(about.network)}; this one is {network_options(config)}"
        )
    weights = {name: w for name, w in other.state_dict().items() if not name.startswith(PALETTE)}
    network.load_state_dict(network.state_dict() | weights)
