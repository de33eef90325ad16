"""`faststyle stylize`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from faststyle.cli.common import Device, Json, Threads, app, reports_errors, run_alone


@app.command()
@reports_errors
def stylize(
    photos: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or - for standard input.", metavar="PHOTO...")
    ],
    style: Annotated[str, typer.Option("--style", help="A checkpoint, or its name in checkpoints/.", metavar="NAME")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="A file (.png, .jpg, .webp), a folder, or - for standard output.")
    ],
    size: Annotated[int | None, typer.Option(help="Shorter side, in pixels; default: as it is.")] = None,
    keep_colors: Annotated[bool, typer.Option("--keep-colors", help="Keep the colours of the photo.")] = False,
    stroke_size: Annotated[float, typer.Option(help="Strokes: 2 is twice as large as trained.")] = 1.0,
    format: Annotated[str | None, typer.Option(help="png, jpg or webp, for outputs in a folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write outputs again that are there.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize photos with a trained network.

    Example: faststyle stylize photo.jpg --style nocturne -o out.png
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from faststyle.stylize.batch import PIPE, plan_jobs, run_jobs
    from faststyle.stylize.stylizer import Stylizer

    jobs = plan_jobs(photos, output, format)
    stylizer = Stylizer.load(style, device, threads)
    console = Console(stderr=True)
    with Progress(console=console, disable=len(jobs) == 1 or not console.is_terminal) as bar:
        task = bar.add_task("stylizing", total=len(jobs))
        report = run_jobs(
            stylizer,
            jobs,
            size=size,
            keep_colors=keep_colors,
            stroke_size=stroke_size,
            overwrite=overwrite,
            done=lambda job: bar.advance(task),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)), err=output == PIPE)
    elif output != PIPE:
        kept = f", {len(report.kept)} kept that were there (--overwrite writes them again)" if report.kept else ""
        what = report.written[0] if len(report.written) == 1 else f"{len(report.written)} pictures"
        if report.written or report.kept:
            typer.echo(f"wrote {what}{kept}")
    for name, reason in report.failed:
        typer.echo(f"error: {name}: {reason}", err=True)
    if report.failed:
        raise typer.Exit(1)


def run_stylize() -> None:
    """Run `faststyle stylize`: what stylize.py does."""
    run_alone(stylize)
