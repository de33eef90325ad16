"""`faststyle webcam`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    Device,
    Engine,
    Json,
    Precision,
    Threads,
    announce_for,
    app,
    reports_errors,
)

if TYPE_CHECKING:
    from faststyle.engines.options import EngineOptions
    from faststyle.live.loop import FrameStylizer


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
            help="FILE.mp4, /dev/videoN, or http://127.0.0.1:8080 (port 0: any free one); "
            "default: a window.",
        ),
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="One more name of this machine, for viewers of http://.", metavar="NAME"
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Shorter side of frames, in pixels; default: as they come.", min=1),
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recording that is there.")
    ] = False,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize a webcam or a stream as it comes: the newest frame first.

    Keys in the window: n next style, p the one before, + more of it, - less, space pause, s save a
    still, q quit.

    Example: faststyle webcam --style nocturne --size 480
    """
    from dataclasses import asdict

    from faststyle.engines.options import EngineOptions
    from faststyle.live.camera import Camera
    from faststyle.live.loop import run_live
    from faststyle.live.mjpeg import MjpegOutput
    from faststyle.live.outputs import open_output
    from faststyle.stylize.stylizer import Look

    announce = announce_for(webcam)
    look = Look(keep_colors, mix=mix)
    options = EngineOptions(engine, device, precision, threads, convert=True)
    with Camera(source, size) as camera:
        sink = open_output(output, camera.rate, hosts or (), overwrite)
        try:
            if isinstance(sink, MjpegOutput):
                announce(f"watch at {sink.address}")
                if sink.is_public:
                    announce("everyone who reaches that address can watch: there is no password")
            frames = _load_styles(styles, options, announce)
            report = run_live(camera, frames, sink, look, stills, seconds, figures, announce)
        finally:
            sink.close()
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    typer.echo(
        f"{report.frames} frames in {report.seconds:.1f} s ({report.fps:.1f} a second), "
        f"{report.dropped} dropped; {1000 * report.latency:.0f} ms behind, {report.lag:.1f} frames"
    )


def _load_styles(
    styles: list[str], options: EngineOptions, announce: Callable[[str], None]
) -> list[tuple[str, FrameStylizer]]:
    """Return the name of each style with the function that stylizes a frame."""
    from faststyle.stylize.stylizer import Stylizer

    loaded = [Stylizer.blend([style], options, announce=announce) for style in styles]
    announce(loaded[0].describe())
    names = [Path(style).stem for style in styles]
    return [(name, one.frame) for name, one in zip(names, loaded, strict=True)]
