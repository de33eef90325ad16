"""`faststyle webcam`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import (
    Device,
    Engine,
    Json,
    Precision,
    Threads,
    app,
    in_precision,
    reports_errors,
)


@app.command()
@reports_errors
def webcam(
    styles: Annotated[
        list[str],
        typer.Option("--style", help="A style; several are changed with n and p.", metavar="NAME"),
    ],
    source: Annotated[
        str, typer.Option(help="Number of a camera, a device, file or URL, or lavfi:GRAPH.")
    ] = "0",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="FILE.mp4, /dev/videoN, or http://127.0.0.1:8080; default: a window.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Shorter side of frames, in pixels; default: as they come.")
    ] = None,
    mix: Annotated[
        float, typer.Option(help="Strength to begin with: 0 is the photo, 1 the style.")
    ] = 1.0,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", help="Keep the colours of the camera.")
    ] = False,
    figures: Annotated[
        bool, typer.Option(help="Draw frames a second and the style's name.")
    ] = True,
    stills: Annotated[Path, typer.Option(help="Folder that stills are saved in.")] = Path(),
    seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize a webcam or a stream as it comes: the newest frame first.

    Keys in the window: n next style, p the one before, + more of it, - less, space pause, s save a
    still, q quit. Example: faststyle webcam --style nocturne --size 480
    """
    from dataclasses import asdict

    from faststyle.live.camera import Camera
    from faststyle.live.loop import run_live
    from faststyle.live.outputs import open_output
    from faststyle.stylize.stylizer import Look, Stylizer

    def announce(line: str) -> None:
        typer.echo(line, err=True)

    look = Look(keep_colors, mix=mix)
    with Camera(source, size) as camera:
        sink = open_output(output, camera.rate)
        try:
            names, runs, number = in_precision(styles, engine, device, precision, announce)
            loaded = [
                Stylizer.blend([name], device, threads, runs, number, True, announce)
                for name in names
            ]
            announce(loaded[0].describe())
            frames = [
                (Path(style).stem, stylizer.frame)
                for style, stylizer in zip(styles, loaded, strict=True)
            ]
            report = run_live(camera, frames, sink, look, stills, seconds, figures, announce)
        finally:
            sink.close()
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    typer.echo(
        f"{report.frames} frames in {report.seconds:.1f} s ({report.fps:.1f} a second), {report.dropped} dropped; "
        f"{1000 * report.latency:.0f} ms behind, {report.lag:.1f} frames"
    )
