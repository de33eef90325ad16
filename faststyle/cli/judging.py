"""`faststyle judge` and `faststyle compare`: how good results are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import Device, Json, Threads, VggWeights, app, reports_errors

Painting = Annotated[
    str, typer.Option("--style", help="The painting: an image file.", metavar="PAINTING")
]
Photos = Annotated[Path, typer.Option("--photos", help="A folder of photos.", metavar="FOLDER")]
Limit = Annotated[
    int | None, typer.Option(help="Take so many photos, evenly from the folder; default: all.")
]


@app.command()
@reports_errors
def judge(
    subject: Annotated[
        str,
        typer.Argument(
            help="A checkpoint, or a folder of pictures named as the photos.", metavar="CKPT|IMAGES"
        ),
    ],
    style: Painting,
    photos: Photos,
    limit: Limit = None,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Score a checkpoint, or pictures that anything made, by a judge that nothing is trained on.

    Example: faststyle judge nocturne --style data/styles/nocturne.png --photos photos/
    """
    from dataclasses import asdict

    from faststyle.compare.scores import judge_results
    from faststyle.devices import set_threads

    set_threads(threads)
    scores, vgg = judge_results(
        subject, style, photos, limit=limit, vgg_weights=vgg_weights, device=device
    )
    if as_json:
        typer.echo(json.dumps(asdict(scores)))
        return
    for key, value in asdict(scores).items():
        typer.echo(f"{key:17} {value:.3f}" if isinstance(value, float) else f"{key:17} {value}")
    typer.echo(f"{'vgg':17} {vgg}")


@app.command()
@reports_errors
def compare(
    style: Painting,
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
    limit: Limit = None,
    optimizer: Annotated[str, typer.Option(help="Of the slow path: lbfgs or adam.")] = "lbfgs",
    seed: Annotated[
        int, typer.Option(help="Seed of the noise that the slow path starts from.")
    ] = 0,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Set a network beside the slow method: how good it is, and how much faster.

    Example: faststyle compare --style data/styles/nocturne.png --checkpoint nocturne --photos
    photos/ -o report/
    """
    from faststyle.compare.report import answer, check_folder, report_json, write_report
    from faststyle.compare.slow_vs_fast import INITS
    from faststyle.compare.slow_vs_fast import compare as measure
    from faststyle.devices import set_threads

    check_folder(output)
    set_threads(threads)
    comparison = measure(
        style,
        checkpoint,
        photos,
        sizes=size or [256],
        steps=steps,
        limit=limit,
        optimizer=optimizer,
        vgg_weights=vgg_weights,
        device=device,
        seed=seed,
        quiet=False,
    )
    write_report(comparison, output)
    if as_json:
        for values in report_json(comparison)["summaries"]:
            typer.echo(json.dumps(values, allow_nan=False))
        return
    for summary in comparison.summaries:
        for line in answer(summary, optimizer, dict.fromkeys(INITS, steps)):
            typer.echo(line)
    typer.echo(f"wrote {output / 'report.html'}")
