"""`faststyle convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import Json, app, reports_errors
from faststyle.errors import one_line


@app.command()
@reports_errors
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="The state dict of another program, a .pth file.", metavar="FILE.pth"),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The checkpoint to write.", metavar="FILE.safetensors"),
    ],
    bgr: Annotated[
        bool, typer.Option("--bgr", help="The network takes and gives blue before red.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a checkpoint of a network that PyTorch's example fast_neural_style trained.

    It works with every command. Code in the file is never run.

    Example: faststyle convert mosaic.pth -o checkpoints/mosaic.safetensors
    """
    from dataclasses import asdict

    from faststyle.convert import convert_checkpoint

    done = convert_checkpoint(source, output, bgr, overwrite)
    if as_json:
        typer.echo(json.dumps(asdict(done), default=str))
        return
    network = done.network
    typer.echo(
        one_line(
            f"wrote {done.file}: {network['name']}, width {network['width']}, {network['blocks']} "
            f"residual blocks; its licence is {source.name}'s, unknown here"
        )
    )
