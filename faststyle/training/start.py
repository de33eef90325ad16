"""Where the weights of a network start from: the base, a checkpoint, or from scratch.

The base that comes with the package is a network of many paintings, a collection. It can paint
strokes and outlines, which all paintings need. A new painting starts from its convolutions, and
from the scales and shifts of the painting in it that is nearest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faststyle.checkpoint import (
    MEANS,
    About,
    base_file,
    check_weights,
    painting_names,
    read_about,
    read_weights,
)
from faststyle.errors import CheckpointError, RecipeError
from faststyle.files import sha256
from faststyle.networks import network_options, one_painting_config
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.training.objective import recipe_of

BASE = "base"
SCRATCH = "scratch"


class Origin(NamedTuple):
    """The history of the weights that a run starts from.

    `photos` they were trained on, how many of them (`photos_seen`), their `license`, the sha256 of
    their `base`, and the painting in it that is `nearest`; "" where there is none. `note` says how
    paintings start whose nearest cannot be found.
    """

    photos: str = ""
    base: str = ""
    photos_seen: int = 0
    nearest: str = ""
    license: str = ""
    note: str = ""


def check_start(init: str, network: Mapping[str, Any]) -> None:
    """Raise RecipeError when there is no such start for a network of that configuration.

    It has a number of `paintings` where it is a collection.
    """
    if init == SCRATCH:
        return
    if init != BASE and not os.path.isfile(init):  # unlike is_file, it takes names of any length
        raise RecipeError(
            f"`init` is {BASE}, {SCRATCH} or the file of a checkpoint; there is no file {init!r}"
        )
    path = base_file() if init == BASE else Path(init)
    if init == BASE and not path.is_file():
        raise RecipeError(f"this installation has no base; use `init` {SCRATCH}")
    try:
        about = read_about(path)
    except CheckpointError as error:
        raise CheckpointError(f"`init` {error}") from None
    held = _shape(about.network)
    wanted = _shape(network)
    if held != wanted:
        name = "the base" if init == BASE else f"`init` {init}"
        differing = ", ".join(f"{k} {held[k]}" for k in held if held[k] != wanted.get(k))
        raise RecipeError(
            f"{name} holds another network: {differing}. Choose that one with `network`, or use "
            f"`init` {SCRATCH}"
        )
    if network.get("paintings") and not about.network.get("paintings"):
        raise RecipeError(
            f"`init` {init} is a network of one painting, and a collection cannot start from it; "
            f"use `init` {BASE} or {SCRATCH}"
        )


def start_network(
    network: nn.Module,
    config: Mapping[str, Any],
    init: str,
    loss: PerceptualLoss,
    names: Sequence[str],
) -> Origin:
    """Give `network`, built from `config`, the weights to start from, and `loss` its balance.

    `names` are those of the paintings that it is for, in the order of `loss`. From a collection
    each painting takes scales, shifts and weight of style of the painting of its own name, else of
    the nearest. It is the first one where the nearest cannot be found, for `loss` has other style
    layers or another VGG than the collection was trained with.

    Raises: RecipeError when the start is of another network; CheckpointError.
    """
    check_start(init, config)
    if init == SCRATCH:
        return Origin()
    path = base_file() if init == BASE else Path(init)
    about = read_about(path)
    with check_weights(path):
        weights = read_weights(path)
    means = weights.pop(MEANS, None)
    nearest = ""
    note = ""
    if about.paintings and means is not None:
        rows, strangers = _rows(path, about, means, loss, names)
        if strangers:
            note = (
                f"{', '.join(strangers)}: starts as {path.stem} paints {painting_names(about)[0]}; "
                f"the nearest painting cannot be found, for {path.stem} has other style layers or "
                "another VGG"
            )
        elif len(rows) == 1:
            nearest = painting_names(about)[rows[0]]
        found = torch.tensor([float(about.paintings[row]["balance"]) for row in rows])
        loss.balance.copy_(found)
        weights = _for_paintings(weights, network.state_dict(), rows)
    with check_weights(path):
        network.load_state_dict({k: w.float() for k, w in weights.items()})
    base = sha256(path) if about.paintings else about.base
    return Origin(about.photos, base, about.photos_seen, nearest, about.license, note)


def painting_means(loss: PerceptualLoss) -> Tensor:
    """Return the channel means of each painting of a loss at all style layers, (P, C), in one row.

    Each layer is divided by the length of its part, so that all layers count alike.
    """
    parts = [loss.style_targets.get_buffer(f"mean{i}") for i in range(len(loss.style_layers))]
    return torch.cat([part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in parts], 1)


def _rows(
    path: Path, about: About, means: Tensor, loss: PerceptualLoss, names: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return, for each painting of a loss, the number of the one in a collection to start from.

    The names that come second are of paintings that start from the first one, for the nearest
    cannot be found.
    """
    known = painting_names(about)
    wanted = painting_means(loss).cpu()
    if wanted.shape[1] != means.shape[1] or not _sees_alike(path, about, loss):
        rows = [known.index(name) if name in known else 0 for name in names]
        return rows, [name for name in names if name not in known]
    near = torch.cdist(wanted, means.float()).argmin(1).tolist()
    many = len(names) > 1
    rows = [
        known.index(name) if many and name in known else int(row)
        for name, row in zip(names, near, strict=True)
    ]
    return rows, []


def _sees_alike(path: Path, about: About, loss: PerceptualLoss) -> bool:
    """Return whether a loss sees paintings by the style layers and the VGG of a collection."""
    try:
        recipe = recipe_of(path, about)
    except CheckpointError:  # of another version, or nobody's: its layers are not known
        return False
    layers = recipe.loss.layers(recipe.vgg)[1]
    return (recipe.vgg, list(layers)) == (loss.arch, list(loss.style_layers))


def _for_paintings(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], rows: Sequence[int]
) -> dict[str, Tensor]:
    """Return the weights of a collection with the rows of scales and shifts that are wanted."""
    chosen = {}
    for name, value in weights.items():
        if value.shape == own[name].shape and value.dim() != 2:
            chosen[name] = value
        elif own[name].dim() == 1:  # one painting
            chosen[name] = value[rows[0]]
        else:
            chosen[name] = value[list(rows)]
    return chosen


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that two networks share if one can start from the other."""
    return network_options(one_painting_config(config))
