"""The networks that can be trained, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from faststyle.errors import RecipeError, did_you_mean
from faststyle.networks.johnson import Johnson

NETWORKS: dict[str, Callable[..., nn.Module]] = {"johnson": Johnson}


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Return a new network from its name and keyword arguments, as a recipe or a checkpoint holds them.

    Raises: RecipeError for an unknown network or argument.

    Example:
        >>> network = build_network({"name": "johnson", "width": 16})
    """
    options = dict(config)
    name = options.pop("name", "johnson")
    if name not in NETWORKS:
        raise RecipeError(f"unknown network {name!r}.{did_you_mean(name, NETWORKS)}")
    allowed = inspect.signature(NETWORKS[name]).parameters
    for key in options:
        if key not in allowed:
            raise RecipeError(f"network {name!r} has no option {key!r}.{did_you_mean(key, allowed)}")
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"network {name!r} cannot be built with {options}: {error}") from error
