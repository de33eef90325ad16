"""Several styles at once: the mean of their networks, or else the mean of their pictures.

Networks that were trained from one start are so alike that the mean of their weights is a network
too. It paints with strokes of both styles, where a mean of two pictures shows one through the
other. It takes the time of one network. Source: Wortsman et al., "Model soups" (2022),
https://arxiv.org/abs/2203.05482
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from faststyle.checkpoint import (
    About,
    find_checkpoint,
    load_checkpoint,
    read_about,
    strictest,
)
from faststyle.engines.engine import Engine
from faststyle.engines.options import is_exported
from faststyle.errors import CheckpointError
from faststyle.networks import network_options
from faststyle.networks.network import StyleNetwork


def parse_style(text: str) -> tuple[Path, float]:
    """Return the checkpoint and the weight of "NAME" or "NAME:WEIGHT". Raises: CheckpointError."""
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return find_checkpoint(text), 1.0
    if not colon:  # the name itself is a number
        return find_checkpoint(text), 1.0
    if not 0 < weight < float("inf"):
        raise CheckpointError(f"`style` {text}: a weight must be above 0")
    return find_checkpoint(name), weight


def share_a_base(abouts: Sequence[About]) -> bool:
    """Return whether networks have the same shape and were trained from the same base."""
    first = network_options(abouts[0].network)
    base = abouts[0].base
    return bool(base) and all(
        network_options(a.network) == first and a.base == base for a in abouts
    )


def can_be_mixed(paths: Sequence[Path]) -> bool:
    """Return whether the mean of these checkpoints' weights is a network."""
    if any(is_exported(path) for path in paths):
        return False
    return share_a_base([read_about(path) for path in paths])


def mean_network(paths: Sequence[Path], weights: Sequence[float]) -> tuple[StyleNetwork, About]:
    """Return a network whose weights are the weighted mean of those of checkpoints.

    Raises: CheckpointError.
    """
    loaded = [load_checkpoint(path) for path in paths]
    network, about = loaded[0]
    states = [other.state_dict() for other, _ in loaded]
    whole = sum(weights)
    shares = torch.tensor([w / whole for w in weights])
    network.load_state_dict(
        {
            key: torch.tensordot(shares, torch.stack([s[key] for s in states]), 1)
            for key in states[0]
        }
    )
    # The metadata of a single painting would be wrong for a mix of two.
    return network, dataclasses.replace(
        about,
        painting={},
        scores={},
        recipe={"abstraction": max(other.abstraction for _, other in loaded)},
        measured={},
        license=strictest(other.license for _, other in loaded),
    )


class MeanOfPictures(Engine):
    """An engine that runs several engines, and returns the weighted mean of their pictures."""

    def __init__(self, engines: Sequence[Engine], weights: Sequence[float]) -> None:
        self.engines = engines
        self.weights = [weight / sum(weights) for weight in weights]
        first = engines[0]
        self.name = first.name
        self.device = first.device
        self.precision = first.precision

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean of the pictures, (B, 3, H, W)."""
        # One picture after the other, so that memory holds two of them at most.
        out = self.engines[0](images) * self.weights[0]
        for engine, weight in zip(self.engines[1:], self.weights[1:], strict=True):
            out.add_(engine(images), alpha=weight)
        return out
