"""`faststyle --version`, `info`, `list` and `weights`: checkpoints, weights and their sources."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

import faststyle
from faststyle.cli.common import Json, VggWeights, app, reports_errors
from faststyle.errors import CheckpointError, one_line

SCORES = ("style_closed", "clear_distance", "light", "grid")  # of the judge


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"faststyle {faststyle.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train a small network that repaints any photo in the style of one painting, and use it."""


@app.command()
@reports_errors
def info(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, or its name in checkpoints/.", metavar="FILE")
    ],
    as_json: Json = False,
) -> None:
    """Show how a checkpoint was made: painting, photos, recipe, scores.

    Example: faststyle info nocturne
    """
    from dataclasses import asdict

    from faststyle.checkpoint import find_checkpoint, read_about

    path = find_checkpoint(checkpoint)
    about = asdict(read_about(path))
    if as_json:
        typer.echo(json.dumps(about))
        return
    typer.echo(one_line(f"{path}  {path.stat().st_size / 1e6:.1f} MB"))
    for key, value in about.items():
        shown = json.dumps(value) if isinstance(value, dict) else value
        typer.echo(one_line(f"{key:9} {shown}"))


@app.command("list")
@reports_errors
def list_styles(as_json: Json = False) -> None:
    """List the styles in checkpoints/ with network, size, and scores on photos never trained on.

    Example: faststyle list
    """
    rows = _style_rows()
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        _print_styles(rows)


def _style_rows() -> list[dict[str, Any]]:
    """Return a row for each style: a checkpoint, or each painting of a collection.

    A checkpoint that cannot be read is named on stderr and left out.
    """
    from faststyle.checkpoint import checkpoints_at_hand, read_about

    rows: list[dict[str, Any]] = []
    for path in checkpoints_at_hand():
        try:
            about = read_about(path)
        except CheckpointError as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        megabytes = round(path.stat().st_size / 1e6, 2)
        paintings = [(f"{path.stem}:{p['name']}", p) for p in about.paintings]
        for name, painting in paintings or [(path.stem, about.painting)]:
            rows.append(
                {
                    "name": name,
                    "network": dict(about.network),
                    "megabytes": megabytes,
                    "painting": painting.get("file", ""),
                    "scores": {key: about.scores[key] for key in SCORES if key in about.scores},
                }
            )
    return rows


def _print_styles(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "network", "MB", "painting", *SCORES)
    for row in rows:
        network = f"{row['network'].get('name', '')} {row['network'].get('width', '')}".strip()
        scores = (f"{row['scores'][key]:.2f}" if key in row["scores"] else "" for key in SCORES)
        cells = (row["name"], network, f"{row['megabytes']:.1f}", row["painting"], *scores)
        # Rich would take [bold] in a name for markup.
        table.add_row(*(escape(one_line(str(cell))) for cell in cells))
    Console().print(table)


@app.command()
@reports_errors
def weights(
    vgg: Annotated[str, typer.Option(help="vgg16 or vgg19.")] = "vgg16",
    vgg_weights: VggWeights = None,
    as_json: Json = False,
) -> None:
    """Show which VGG weights are in use, and their source; download them if there are none.

    Example: faststyle weights
    """
    from faststyle.perceptual.weights import find_weights

    found = find_weights(vgg, vgg_weights)
    about = {"id": found.id, "arch": found.arch, "source": found.source, "license": found.license}
    typer.echo(json.dumps(about) if as_json else "\n".join(f"{k:8} {v}" for k, v in about.items()))
