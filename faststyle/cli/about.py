"""`faststyle --version`, `info`, `list`, `weights` and `doctor`: what there is, and its state."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import faststyle
from faststyle.cli.common import Json, VggWeights, app, reports_errors
from faststyle.errors import CheckpointError, FaststyleError, one_line

if TYPE_CHECKING:
    from faststyle.checkpoint import About
    from faststyle.doctor import Diagnosis, Finding

SCORES = ("style_closed", "clear_distance", "light", "grid")  # of the judge
FRAME = (480, 848)  # pixels, height and width, of the frame that --speed times


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
        # As JSON, a text of strangers has no characters that would control the terminal.
        plain = isinstance(value, int) or (isinstance(value, str) and value.isprintable())
        typer.echo(one_line(f"{key:11} {value if plain else json.dumps(value)}"))


@app.command("list")
@reports_errors
def list_styles(
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Measure milliseconds a frame of 480x848 on this machine."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the styles in checkpoints/ with network, size, and scores on photos never trained on.

    Then the collections of the package: a line for each, in JSON a row for each painting.

    Example: faststyle list
    """
    from faststyle.checkpoint import checkpoints_at_hand, package_collections

    paths = checkpoints_at_hand()
    rows = _style_rows(paths, speed)
    # A checkpoint of one's own is found before a collection of the package with the same name.
    own = {path.stem for path in paths}
    collections = [path for path in package_collections() if path.stem not in own]
    if as_json:
        typer.echo(json.dumps(rows + _style_rows(collections, speed)))
    else:
        _print_styles(rows, speed)
        _print_collections(collections, speed)


def _style_rows(paths: list[Path], speed: bool) -> list[dict[str, Any]]:
    """Return a row for each style: a checkpoint, or each painting of a collection.

    With `speed` they have milliseconds a frame; paintings of a collection share a network.
    """
    rows: list[dict[str, Any]] = []
    for path, about in _readable(paths):
        megabytes = round(path.stat().st_size / 1e6, 2)
        paintings = [(f"{path.stem}:{p['name']}", p) for p in about.paintings]
        paintings = paintings or [(path.stem, about.painting)]
        timed = {"milliseconds": _milliseconds(paintings[0][0])} if speed else {}
        for name, painting in paintings:
            rows.append(
                {
                    "name": name,
                    "network": dict(about.network),
                    "megabytes": megabytes,
                    "painting": painting.get("file", ""),
                    "scores": {key: about.scores[key] for key in SCORES if key in about.scores},
                    **timed,
                }
            )
    return rows


def _readable(paths: list[Path]) -> Iterator[tuple[Path, About]]:
    """Yield what is known of each checkpoint; one that cannot be read is named on stderr."""
    from faststyle.checkpoint import read_about

    for path in paths:
        try:
            yield path, read_about(path)
        except CheckpointError as error:
            typer.echo(f"left out: {error}", err=True)


def _milliseconds(style: str) -> float | None:
    """Return the milliseconds that a style takes for a frame; None, and a line, where it fails."""
    import torch

    from faststyle.stylize.sheet import paint_timed
    from faststyle.stylize.stylizer import Stylizer

    try:
        frame = torch.full((1, 3, *FRAME), 0.5)
        seconds = paint_timed(Stylizer.load(style), frame, abstraction=0.0)[1]
    except FaststyleError as error:
        typer.echo(f"not timed: {error}", err=True)
        return None
    return round(1000 * seconds, 1)


def _print_styles(rows: list[dict[str, Any]], speed: bool) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    timed = ["ms"] if speed else []
    scores = [name.replace("_", "\n", 1) for name in SCORES]  # narrow: all fits into 80 columns
    table = Table("name", "network", "MB", *scores, *timed, box=SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    table.columns[0].no_wrap = True  # it is what one types
    table.columns[0].min_width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        values = (f"{row['scores'][key]:.2f}" if key in row["scores"] else "" for key in SCORES)
        cells = [row["name"], _words(row["network"]), f"{row['megabytes']:.1f}", *values]
        if timed:
            cells.append("" if row["milliseconds"] is None else f"{row['milliseconds']:.0f}")
        table.add_row(*(one_line(str(cell)) for cell in cells))
    Console(markup=False).print(table)  # names may have [brackets]


def _print_collections(paths: list[Path], speed: bool) -> None:
    """Print a line for each collection of the package."""
    from faststyle.checkpoint import painting_names

    shown = []
    for path, about in _readable(paths):
        names = [f"{path.stem}:{painting}" for painting in painting_names(about)]
        milliseconds = _milliseconds(names[0]) if speed else None
        details = [
            _words(about.network),
            f"{path.stat().st_size / 1e6:.1f} MB",
            *([f"{milliseconds:.0f} ms"] if milliseconds else []),
        ]
        typer.echo(f"{names[-1]} and {len(names) - 1} more: {', '.join(details)}")
        shown.append(path.stem)
    if shown:
        typer.echo(f"faststyle styles PHOTO --style {shown[0]} shows all of its paintings.")


def _words(network: Mapping[str, Any]) -> str:
    return f"{network.get('name', '')} {network.get('width', '')}".strip()


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


@app.command()
@reports_errors
def doctor(as_json: Json = False) -> None:
    """Check this installation: versions, machine, folders, and each engine beside torch.

    Nothing is downloaded. The exit code is 1 when something that is installed does not work.

    Example: faststyle doctor
    """
    from dataclasses import asdict

    try:
        from faststyle.doctor import diagnose
    except (ImportError, OSError) as error:  # torch or another package that all commands need
        typer.echo(f"broken: {error}; install again: pip install faststyle-trainer", err=True)
        raise typer.Exit(1) from None
    found = diagnose()
    if as_json:
        broken = [finding.name for finding in found.broken]
        typer.echo(json.dumps({**asdict(found), "broken": broken}, default=str))
    else:
        _print_diagnosis(found)
    if found.broken:
        raise typer.Exit(1)


def _print_diagnosis(found: Diagnosis) -> None:
    """Print a diagnosis, a line for each thing, and at the end what does not work."""
    for key, value in {**found.versions, **found.machine}.items():
        _print_line(key, value)
    for key, value in found.devices.items():
        _print_line("devices", f"{key}: {value}")
    for folder in found.folders:
        used = f", {folder.size / 2**20:.1f} MiB" if folder.size else ""
        _print_line(folder.name, f"{folder.path}{used}, {folder.free / 2**30:.1f} GiB free")
    for place, count in found.styles.items():
        _print_line("styles", f"{place}: {count}")
    for line in found.damaged_styles:
        _print_line("styles", f"damaged: {line}")
    for title, findings in (
        ("package", found.packages),
        ("weights", found.weights),
        ("engine", found.engines),
    ):
        for finding in findings:
            _print_line(title, _finding_text(finding))
    names = ", ".join(finding.name for finding in found.broken)
    _print_line("result", f"broken: {names}" if names else "all that is installed works")


def _print_line(key: str, value: str) -> None:
    typer.echo(f"{key:13} {value}")


def _finding_text(finding: Finding) -> str:
    state = "" if finding.state == "ok" else f"{finding.state}: "
    return f"{finding.name:12} {state}{finding.detail}"
