"""The options of `faststyle stylize` that refine pictures, and when they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REFINING = "Refining"

Refine = Annotated[
    float | None,
    typer.Option(
        help="Go on from the network's picture with the slow method, so long for each picture.",
        metavar="SECONDS",
        rich_help_panel=REFINING,
    ),
]
PaintingOfStyle = Annotated[
    Path | None,
    typer.Option(
        "--painting",
        help="The painting that the style was trained on; default: its name here, or in "
        "data/styles/.",
        rich_help_panel=REFINING,
    ),
]


def check_refining(
    refine: float | None,
    painting: Path | None,
    vgg_weights: Path | None,
    *,
    videos: bool,
    dataset: bool,
    ray: bool,
) -> None:
    """Raise BadParameter for options of refining that do not fit each other, or the inputs."""
    if refine is None:
        for flag, given in (("--painting", painting), ("--vgg-weights", vgg_weights)):
            if given is not None:
                raise typer.BadParameter("goes with --refine SECONDS", param_hint=flag)
        return
    if videos or dataset or ray:
        raise typer.BadParameter(
            "is for files of pictures, not for videos, data sets or --ray", param_hint="--refine"
        )
