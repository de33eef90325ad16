"""`faststyle push`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from faststyle.cli.common import Json, app, print_notes, reports_errors
from faststyle.errors import one_line


@app.command()
@reports_errors
def push(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, or its name in checkpoints/.", metavar="CKPT")
    ],
    repo: Annotated[
        str,
        typer.Argument(help="The repository; it is made if there is none.", metavar="USER/REPO"),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is private.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a checkpoint on the Hugging Face Hub, with a card that is filled in.

    Others use it with --style hf:USER/REPO. A token is needed: hf auth login, or HF_TOKEN.

    Example: faststyle push nocturne me/nocturne
    """
    from faststyle.checkpoint import find_checkpoint
    from faststyle.push import push_checkpoint

    path = find_checkpoint(checkpoint)
    url, notes = push_checkpoint(path, repo, private, overwrite)
    print_notes(notes, push)
    if as_json:
        typer.echo(json.dumps({"url": url, "file": path.name}))
        return
    typer.echo(one_line(f"put {path.name} on {url}; use it with: --style hf:{repo}/{path.stem}"))
