"""`faststyle judge` and `faststyle compare`: how good results are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    CommandGroup,
    Device,
    Json,
    Program,
    Threads,
    VggWeights,
    announce_for,
    app,
    reports_errors,
)
from faststyle.errors import one_line

if TYPE_CHECKING:  # compare/ imports torch, which --help does not wait for
    from faststyle.compare.results import Comparison

Painting = Annotated[
    str,
    typer.Option("--painting", "--style", help="The painting: an image file.", metavar="PAINTING"),
]
Photos = Annotated[Path, typer.Option("--photos", help="A folder of photos.", metavar="FOLDER")]
Limit = Annotated[
    int | None,
    typer.Option(help="Take only so many photos, evenly from the folder; default: all."),
]


@app.command()
@reports_errors
def judge(
    subject: Annotated[
        str,
        typer.Argument(
            help="A checkpoint, or a folder of pictures with the names of the photos.",
            metavar="CKPT|IMAGES",
        ),
    ],
    painting: Painting,
    photos: Photos,
    limit: Limit = None,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Score a checkpoint, or pictures from any source, by a judge that nothing is trained on.

    Example: faststyle judge nocturne --painting data/styles/nocturne.png --photos photos/
    """
    from faststyle.compare.scores import judge_results
    from faststyle.devices import set_threads

    set_threads(threads)
    scores, vgg = judge_results(
        subject,
        painting,
        photos,
        limit=limit,
        vgg_weights=vgg_weights,
        device=device,
        announce=announce_for(judge),
    )
    if as_json:
        typer.echo(json.dumps(asdict(scores)))
        return
    for key, value in asdict(scores).items():
        typer.echo(f"{key:17} {value:.3f}" if isinstance(value, float) else f"{key:17} {value}")
    typer.echo(f"{'vgg':17} {vgg}")


compare_app = Program()
app.add_typer(compare_app, name="compare", cls=CommandGroup, subcommand_metavar="[flicker ...]")


@compare_app.callback(invoke_without_command=True)
@reports_errors
def compare(
    context: typer.Context,
    painting: Painting,
    checkpoint: Annotated[
        list[str],
        typer.Option(
            help="A checkpoint, or its name in checkpoints/; may be repeated.", metavar="CKPT"
        ),
    ],
    photos: Photos,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder for the report.", metavar="REPORT/")
    ],
    size: Annotated[
        list[int] | None, typer.Option(help="Side of the photos, in pixels; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the slow path.")] = 300,
    refine: Annotated[
        float,
        typer.Option(
            help="Seconds for which each network's picture is refined; 0: not at all.",
            metavar="SECONDS",
        ),
    ] = 10.0,
    limit: Limit = None,
    optimizer: Annotated[
        str, typer.Option(help="Optimizer of the slow path: lbfgs or adam.")
    ] = "lbfgs",
    seed: Annotated[
        int, typer.Option(help="Seed of the noise that the slow path starts from.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over a report that is there.")
    ] = False,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compare a network with the slow method: how good it is, and how much faster.

    Example: faststyle compare --painting data/styles/nocturne.png --checkpoint nocturne --photos
    photos/ -o report/
    """
    if _is_subcommand(context):
        return
    from faststyle.compare.run import run_comparison
    from faststyle.devices import set_threads

    set_threads(threads)
    comparison = run_comparison(
        painting,
        checkpoint,
        photos,
        output,
        overwrite=overwrite,
        sizes=size or [256],
        steps=steps,
        refine=refine,
        limit=limit,
        optimizer=optimizer,
        vgg_weights=vgg_weights,
        device=device,
        seed=seed,
        quiet=False,
    )
    _print_comparison(comparison, output, as_json)


def _is_subcommand(context: typer.Context) -> bool:
    """Return whether a subcommand follows. Exits where options of `compare` would be ignored."""
    if context.invoked_subcommand is not None and context.params["painting"] is not None:
        context.fail(f"options go after {context.invoked_subcommand!r}")
    return context.invoked_subcommand is not None


def _print_comparison(comparison: Comparison, folder: Path, as_json: bool) -> None:
    from faststyle.compare.report import report_json
    from faststyle.compare.run import answers

    if as_json:
        for summary in report_json(comparison)["summaries"]:
            typer.echo(json.dumps(summary, allow_nan=False))
        return
    for line in answers(comparison):
        typer.echo(line)
    typer.echo(one_line(f"wrote {folder / 'report.html'}"))
