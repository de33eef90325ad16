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

NETWORKS: dict[str, type[StyleNetwork]] = {"johnson": Johnson, "mobile": Mobile}
DEFAULT = "johnson"  # where no name is given
PAINTINGS = "paintings"  # the option that makes a network one of many paintings


def parse_network(text: str) -> dict[str, Any] | None:
    """Return the configuration of "mobile", or with its width of "mobile-64"; None for what names
    no network.

    Example:
        >>> parse_network("johnson-16")
        {'name': 'johnson', 'width': 16}
    """
    name, dash, width = text.partition("-")
    if name not in NETWORKS or (dash and not width.isdecimal()):
        return None
    return {"name": name, "width": int(width)} if dash else {"name": name}


def network_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and all arguments of a network, defaults included: equal for configurations of the same network."""
    options = {"name": DEFAULT, **config}
    parameters = inspect.signature(NETWORKS[options["name"]]).parameters
    return {**{key: p.default for key, p in parameters.items()}, **options}


def bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """Return the most memory that evaluation takes, for each pixel of the photo, in float32 on a CPU."""
    options = network_options(config)
    return NETWORKS[options["name"]].bytes_per_pixel(options["width"])


def build_network(config: Mapping[str, Any]) -> StyleNetwork:
    """Return a new network from its name and keyword arguments, as a recipe or checkpoint has them.

    Raises: RecipeError for an unknown network or argument.

    Example:
        >>> network = build_network({"name": "johnson", "width": 16})
    """
    options = dict(config)
    name = options.pop("name", DEFAULT)
    if name not in NETWORKS:
        raise RecipeError(f"unknown network {name!r}.{did_you_mean(name, NETWORKS)}")
    allowed = inspect.signature(NETWORKS[name]).parameters
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
    """Return the network of one painting, or of a mix of them, from `network`, one of many.

    `config` is what the network was built from; `mix`, (P,), the shares of its paintings. Their
    scales and shifts are mixed; everything else is shared.
    """
    single = build_network(one_painting_config(config))
    own = single.state_dict()
    found = network.state_dict()
    for name, value in own.items():
        many = found[name].to(value.dtype)
        own[name] = many if many.shape == value.shape else mix.to(value.dtype) @ many
    single.load_state_dict(own)
    return single.eval()


def one_painting_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the network of one painting that a network of many holds."""
    return {key: value for key, value in config.items() if key != PAINTINGS}
