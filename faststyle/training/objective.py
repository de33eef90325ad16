"""The objective that a checkpoint was trained on: its recipe, and the file of its painting.

The slow path, in `compare` and in `stylize --refine`, minimises it for one picture.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from faststyle.checkpoint import About
from faststyle.errors import CheckpointError, RecipeError
from faststyle.files import sha256
from faststyle.training.recipe import Recipe, recipe_from_dict


def recipe_of(path: Path, about: About) -> Recipe:
    """Return the recipe of the checkpoint `path`, with the weight of style of its painting.

    Raises: CheckpointError for one that was converted, and for a recipe of another version.
    """
    if about.source:
        raise CheckpointError(
            f"{path} was converted from {about.source.get('file')}: its painting and objective are "
            "not known, so it can be judged (faststyle judge), but not compared or refined"
        )
    # A key that later versions dropped, and that was off, changes nothing.
    known = {key.name for key in dataclasses.fields(Recipe)}
    stored = {key: value for key, value in about.recipe.items() if key in known or value}
    try:
        recipe = recipe_from_dict(stored)
    except RecipeError as error:
        raise CheckpointError(
            f"{path}: its recipe is of another version, train it again ({error})"
        ) from None
    # Each painting of a collection has a weight of its own, which is not in the recipe.
    balance = about.painting.get("balance")
    if not isinstance(balance, int | float):
        return recipe
    return dataclasses.replace(recipe, loss=dataclasses.replace(recipe.loss, balance=balance))


def check_trained_on(path: Path, about: About, painting: Path) -> None:
    """Raise CheckpointError where the checkpoint `path` was trained on another file."""
    if about.painting.get("sha256") != sha256(painting):
        raise CheckpointError(
            f"{path} was trained for another painting, {about.painting.get('file')}: "
            "give that file as `painting`"
        )
