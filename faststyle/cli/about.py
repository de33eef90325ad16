"""`faststyle info` and `faststyle weights`: what is at hand, and where it is from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from faststyle.cli.common import Json, VggWeights, app, reports_errors


@app.command()
@reports_errors
def info(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or its name in checkpoints/.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Say how a checkpoint was made.

    Example: faststyle info nocturne
    """
    from dataclasses import asdict

    from faststyle.checkpoint import find_checkpoint, read_about

    path = find_checkpoint(checkpoint)
    about = asdict(read_about(path))
    if as_json:
        typer.echo(json.dumps(about))
        return
    typer.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    for key, value in about.items():
        typer.echo(f"{key:9} {json.dumps(value) if isinstance(value, dict) else value}")


@app.command()
@reports_errors
def weights(
    vgg: Annotated[str, typer.Option(help="vgg16 or vgg19.")] = "vgg16",
    vgg_weights: VggWeights = None,
    as_json: Json = False,
) -> None:
    """Say which VGG weights are in use and where they are from; download them if there are none.

    Example: faststyle weights
    """
    from faststyle.perceptual.weights import find_weights

    found = find_weights(vgg, vgg_weights)
    about = {"id": found.id, "arch": found.arch, "source": found.source, "license": found.license}
    typer.echo(json.dumps(about) if as_json else "\n".join(f"{k:8} {v}" for k, v in about.items()))
