"""`faststyle stylize`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    run_alone,
)

if TYPE_CHECKING:
    from faststyle.stylize.stylizer import Look, Stylizer
    from faststyle.video.job import VideoOptions

VIDEO = "Video"
SMALLEST_TILE = 64  # pixels: below, a tile is mostly what is around it
MANY = 20  # pictures that are worth the 10 s in which a network is converted for another engine


@app.command()
@reports_errors
def stylize(
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, - for standard input; or one video.", metavar="PHOTO..."
        ),
    ],
    styles: Annotated[
        list[str],
        typer.Option(
            "--style",
            help="A checkpoint, or its name in checkpoints/; several are blended: a:0.6.",
            metavar="NAME[:WEIGHT]",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="A picture, a video (.mp4, .mov, .mkv, .webm, .gif), a folder, or -.",
        ),
    ],
    size: Annotated[
        int | None, typer.Option(help="Shorter side, in pixels; default: as it is.")
    ] = None,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", help="Keep the colours of the photo.")
    ] = False,
    stroke_size: Annotated[
        float, typer.Option(help="Strokes: 2 is twice as large as trained.")
    ] = 1.0,
    mix: Annotated[
        float, typer.Option(help="How much of the style: 0 is the photo, 1 all of it.")
    ] = 1.0,
    tile: Annotated[
        str, typer.Option(help="auto (where memory asks for tiles), off, or their side in pixels.")
    ] = "auto",
    allow_huge: Annotated[
        bool,
        typer.Option(
            "--allow-huge", help="Take pictures of more than 179 million pixels; needs [huge]."
        ),
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="png, jpg, webp or tif, for outputs in a folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write outputs again that are there.")
    ] = False,
    codec: Annotated[
        str | None,
        typer.Option(
            help="h264, hevc, vp9, av1, prores, or any encoder of FFmpeg.", rich_help_panel=VIDEO
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="The codec's CRF; lower is better. H.264: 18.", rich_help_panel=VIDEO),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="The codec's speed. H.264: superfast.", rich_help_panel=VIDEO)
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(help="Make the rate constant: 25, or 24000/1001.", rich_help_panel=VIDEO),
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="Where to begin, in seconds.", rich_help_panel=VIDEO)
    ] = None,
    end: Annotated[
        float | None, typer.Option(help="Where to end, in seconds.", rich_help_panel=VIDEO)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a video that was stopped.", rich_help_panel=VIDEO
        ),
    ] = False,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize photos, or a video, with a trained network.

    Example: faststyle stylize photo.jpg --style nocturne -o out.png
    Example: faststyle stylize clip.mp4 --style nocturne -o out.mp4
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from faststyle.stylize.batch import PIPE, plan_jobs, run_jobs
    from faststyle.stylize.stylizer import Look, Stylizer
    from faststyle.video.options import parse_rate, wants_video

    def announce(line: str) -> None:
        typer.echo(line, err=True)

    def load(convert: bool) -> Stylizer:
        names, runs, number = in_precision(styles, engine, device, precision, announce)
        return Stylizer.blend(names, device, threads, runs, number, convert, announce)

    look = Look(keep_colors, stroke_size, mix)
    asked: dict[str, Any] = {
        "codec": codec,
        "quality": quality,
        "preset": preset,
        "fps": fps,
        "start": start,
        "end": end,
        "resume": resume or None,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    if wants_video(photos, output):
        from faststyle.video.job import VideoOptions

        if format is not None:
            raise typer.BadParameter(
                "is for pictures; a video is named with -o", param_hint="--format"
            )
        if fps is not None:
            asked["fps"] = parse_rate(fps)
        options = VideoOptions(size=size, threads=threads, overwrite=overwrite, **asked)
        kind = f"{look} {precision}"
        _stylize_video(
            photos[0],
            output,
            functools.cache(lambda: load(True)),
            styles,
            options,
            look,
            kind,
            as_json,
        )
        return
    if asked:
        raise typer.BadParameter("is for videos", param_hint=", ".join(f"--{key}" for key in asked))
    jobs = plan_jobs(photos, output, format)
    stylizer = load(len(jobs) >= MANY)
    stylizer.tile = _parse_tile(tile)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("stylizing", total=len(jobs), visible=len(jobs) > 1)
        tiles = bar.add_task("tiles", total=None, visible=False)
        stylizer.progress = lambda done, of: bar.update(
            tiles, completed=done, total=of, visible=done < of
        )
        report = run_jobs(
            stylizer,
            jobs,
            size=size,
            look=look,
            overwrite=overwrite,
            allow_huge=allow_huge,
            done=lambda job: bar.advance(task),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)), err=output == PIPE)
    elif output != PIPE:
        kept = (
            f", {len(report.kept)} kept that were there (--overwrite writes them again)"
            if report.kept
            else ""
        )
        what = report.written[0] if len(report.written) == 1 else f"{len(report.written)} pictures"
        if report.written or report.kept:
            typer.echo(f"wrote {what}{kept} ({stylizer.describe()})")
    for name, reason in report.failed:
        typer.echo(f"error: {name}: {reason}", err=True)
    if report.failed:
        raise typer.Exit(1)


@app.command()
@reports_errors
def sheet(
    photo: Annotated[str, typer.Argument(help="An image file.", metavar="PHOTO")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The contact sheet (.png, .jpg, .webp).")
    ],
    styles: Annotated[
        list[str] | None,
        typer.Option("--style", help="A style, several times if wanted; default: all."),
    ] = None,
    size: Annotated[
        int, typer.Option(help="Shorter side of each picture, in pixels.", min=16)
    ] = 320,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Render a photo in every style at hand, on one sheet.

    Example: faststyle sheet photo.jpg -o sheet.png
    """
    from faststyle.checkpoint import find_checkpoint, names_at_hand
    from faststyle.errors import CheckpointError
    from faststyle.files import write_bytes
    from faststyle.images import encode_image, output_format, read_image
    from faststyle.stylize.sheet import contact_sheet
    from faststyle.stylize.stylizer import Stylizer

    format = output_format(output)
    names = styles or names_at_hand()
    if not names:
        raise CheckpointError(
            "no checkpoints at hand; train one with: faststyle train --style PAINTING"
        )
    paths = [find_checkpoint(name) for name in names]
    loaded = ((path.stem, Stylizer.load(path, device, threads)) for path in paths)
    picture = contact_sheet(photo, loaded, size)
    write_bytes(output, encode_image(read_image(picture), format))
    typer.echo(f"wrote {output}: {', '.join(path.stem for path in paths)}")


def _parse_tile(text: str) -> int | None:
    """Return what `Stylizer.tile` is for an option."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    if text.isdecimal() and int(text) >= SMALLEST_TILE:
        return int(text)
    raise typer.BadParameter(
        f"auto, off, or {SMALLEST_TILE} or more pixels, got {text!r}", param_hint="--tile"
    )


def _stylize_video(
    source: str,
    output: str,
    load: Callable[[], Stylizer],
    styles: list[str],
    options: VideoOptions,
    look: Look,
    kind: str,
    as_json: bool,
) -> None:
    """Stylize one video, with a bar of frames; the network is loaded once the video is known to be
    one.

    What was stopped is resumed with the same styles and the same `kind` of result only.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from faststyle.files import sha256
    from faststyle.stylize.blend import parse_style
    from faststyle.video.job import VideoProgress, stylize_video

    parts = [(sha256(path), weight) for path, weight in map(parse_style, styles)]
    console = Console(stderr=True)
    columns = (
        TextColumn("stylizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, fps=0.0)

        def show(progress: VideoProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, fps=progress.fps)

        report = stylize_video(
            source,
            output,
            lambda rgb: load().frame(rgb, look),
            options,
            style=f"{parts} {kind}",
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    skipped = f", {report.skipped} damaged ones skipped" if report.skipped else ""
    resumed = f", {report.resumed} of them from before" if report.resumed else ""
    typer.echo(
        f"wrote {report.output}: {report.frames} frames, {report.seconds:.1f} s{resumed}{skipped} ({load().describe()})"
    )
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)


def run_stylize() -> None:
    """Run `faststyle stylize`: what stylize.py does."""
    run_alone(stylize)
