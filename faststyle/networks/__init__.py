"""The networks that can be trained, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from faststyle.errors import RecipeError, did_you_mean
from faststyle.networks.johnson import Johnson
from faststyle.networks.mobile import Mobile
from faststyle.networks.network import StyleNetwork
from faststyle.networks.pytorch_example import PyTorchExample

NETWORKS: dict[str, type[StyleNetwork]] = {
    "johnson": Johnson,
    "mobile": Mobile,
    "pytorch_example": PyTorchExample,
}
DEFAULT = "johnson"  # the network of a configuration without a name
PAINTINGS = "paintings"  # the option for a network of many paintings: their number


def parse_network(text: str) -> dict[str, Any] | None:
    """Return the configuration of a network from its short name, "mobile" or "mobile-64" (width).

    Other names give None.

    Example:
        >>> parse_network("johnson-16")
        {'name': 'johnson', 'width': 16}
    """
    name, dash, width = text.partition("-")
    if name not in NETWORKS or (dash and not width.isdecimal()):
        return None
    return {"name": name, "width": int(width)} if dash else {"name": name}


def network_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name and all arguments of a network, defaults included.

    Configurations of the same network give equal results. Raises: RecipeError.
    """
    options = {"name": DEFAULT, **config}
    parameters = inspect.signature(_find_class(options["name"])).parameters
    return {**{key: p.default for key, p in parameters.items()}, **options}


def bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """Return the most bytes that evaluation takes for each pixel of the photo.

    It is for float32 on a CPU.
    """
    options = network_options(config)
    return NETWORKS[options["name"]].bytes_per_pixel(options["width"])


def _find_class(name: object) -> type[StyleNetwork]:
    """Return the class of a network. Raises: RecipeError for an unknown name."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise RecipeError(f"unknown network {name!r}.{did_you_mean(str(name), NETWORKS)}")
    return NETWORKS[name]


def build_network(config: Mapping[str, Any]) -> StyleNetwork:
    """Return a new network, from the name and keyword arguments in a recipe or checkpoint.

    Raises: RecipeError for an unknown network or argument.

    Example:
        >>> network = build_network({"name": "johnson", "width": 16})
    """
    options = dict(config)
    name = options.pop("name", DEFAULT)
    allowed = inspect.signature(_find_class(name)).parameters
    for key in options:
        if key not in allowed:
            raise RecipeError(
                f"network {name!r} has no option {key!r}.{did_you_mean(key, allowed)}"
            )
    try:
        network = NETWORKS[name](**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"network {name!r} cannot be built with {options}: {error}") from error
    return network


def one_painting(network: StyleNetwork, config: Mapping[str, Any], mix: Tensor) -> StyleNetwork:
    """Return a network of one painting, or of a mix, from a `network` of many paintings.

    `config` is the configuration of `network`, and `mix`, (P,), holds the shares of its paintings.
    Scales and shifts are mixed by them; everything else is the same for all paintings.
    """
    single = build_network(one_painting_config(config))
    own = single.state_dict()
    found = network.state_dict()
    for name, value in own.items():
        many = found[name].to(value.dtype)
        # (P, C) in the network of many, (C,) here: a scale or a shift
        own[name] = many if many.shape == value.shape else mix.to(value.dtype) @ many
    single.load_state_dict(own)
    return single.eval()


def one_painting_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of `one_painting`, from that of the network of many paintings."""
    return {key: value for key, value in config.items() if key != PAINTINGS}
