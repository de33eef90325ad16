"""`faststyle stylize`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faststyle.cli.clips import stylize_clips, stylize_video
from faststyle.cli.common import (
    Device,
    Engine,
    Json,
    Precision,
    Threads,
    VggWeights,
    announce_for,
    app,
    print_notes,
    reports_errors,
    run_alone,
    with_flags,
)
from faststyle.cli.refining import PaintingOfStyle, Refine, check_refining
from faststyle.errors import one_line

if TYPE_CHECKING:
    from faststyle.engines.options import EngineOptions
    from faststyle.stylize.batch import Report
    from faststyle.stylize.collection import Item
    from faststyle.stylize.processes import Process
    from faststyle.stylize.report import Record
    from faststyle.video.job import VideoReport

VIDEO = "Video"
COLLECTION = "Collections"
SMALLEST_TILE = 64  # pixels; a smaller tile is mostly the margin around it


@app.command()
@reports_errors
def stylize(
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, videos too; - for standard input. Data sets: parquet "
            "files, or hf:NAME[:SPLIT[:COLUMN]].",
            metavar="PHOTO...",
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
        str | None,
        typer.Option(
            help="Strokes: 2 is twice as large as trained, auto is in proportion to the picture.",
            metavar="NUMBER|auto",
        ),
    ] = None,
    mix: Annotated[
        float, typer.Option(help="How much of the style: 0 is the photo, 1 all of it.")
    ] = 1.0,
    abstraction: Annotated[
        float | None,
        typer.Option(
            help="Leave out texture of the photo finer than this radius, in pixels; 0: keep all. "
            "Default: what the style asks for (ours: 6), in pictures; 0 in videos.",
        ),
    ] = None,
    tile: Annotated[
        str, typer.Option(help="auto (where memory asks for tiles), off, or their side in pixels.")
    ] = "auto",
    allow_huge: Annotated[
        bool,
        typer.Option(
            "--allow-huge", help=r"Take pictures of more than 179 million pixels; needs \[huge]."
        ),
    ] = False,
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata",
            help="Keep EXIF and XMP of photos: camera, date, and the place if it is in them (GPS). "
            "Without it they are left out.",
        ),
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="png, jpg, webp or tif, for outputs in a folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write outputs again that are there.")
    ] = False,
    refine: Refine = None,
    painting: PaintingOfStyle = None,
    vgg_weights: VggWeights = None,
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
    smooth: Annotated[
        float | None,
        typer.Option(
            help="How much of the frame before is kept, moved to its place: 0 to 0.95; "
            r"needs \[flicker].",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a video that was stopped. Pictures and data sets always go on.",
            rich_help_panel=VIDEO,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write pictures, files a second and failures to a .json file.",
            rich_help_panel=COLLECTION,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of pictures of a data set; default: the only one.",
            rich_help_panel=COLLECTION,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help=r"Paint on a cluster of Ray: its address, auto, or local; needs \[ray].",
            rich_help_panel=COLLECTION,
        ),
    ] = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize photos, or a video, with a trained network.

    Example: faststyle stylize photo.jpg --style nocturne -o out.png
    Example: faststyle stylize clip.mp4 --style nocturne -o out.mp4
    Example: faststyle stylize holiday/ --style nocturne -o painted/
    Example: faststyle stylize photo.jpg --style nocturne -o out.png --refine 10
    """
    from faststyle.engines.options import EngineOptions
    from faststyle.files import check_free
    from faststyle.stylize.clip import check_clip_look, plan_clips
    from faststyle.stylize.processes import (
        ended_by_sigterm,
        take_gpu,
        this_process,
        wait_for_others,
    )
    from faststyle.stylize.report import recorded
    from faststyle.stylize.shards import wants_dataset
    from faststyle.stylize.stylizer import STROKE_SIZE, Look
    from faststyle.video.options import wants_video

    process = this_process()
    take_gpu(process)
    look = Look(keep_colors, _parse_stroke_size(stroke_size, STROKE_SIZE), mix, abstraction)
    options = EngineOptions(engine, device, precision, threads)
    video = _given(
        codec=codec,
        quality=quality,
        preset=preset,
        fps=fps,
        start=start,
        end=end,
        smooth=smooth,
    )
    dataset = wants_dataset(photos, output)
    one_video = not dataset and wants_video(photos, output)
    pictures, clips = ([], []) if dataset or one_video else plan_clips(photos, output)
    if video and not (one_video or clips):
        raise typer.BadParameter("is for videos", param_hint=", ".join(f"--{key}" for key in video))
    if not (pictures or dataset):
        _refuse_for_videos(
            format=format, tile=tile, allow_huge=allow_huge, keep_metadata=keep_metadata
        )
    clip_look = Look(keep_colors, _parse_stroke_size(stroke_size, 1.0), mix, abstraction)
    if one_video or clips:
        check_clip_look(clip_look)
    if allow_huge and dataset:
        raise typer.BadParameter("is for files, not for data sets", param_hint="--allow-huge")
    _refuse_for_collections(ray, column, dataset, bool(one_video or clips), photos, output)
    check_refining(
        refine,
        painting,
        vgg_weights,
        videos=bool(one_video or clips),
        dataset=dataset,
        ray=ray is not None,
    )
    video |= {"size": size, "threads": threads, "overwrite": overwrite, "resume": resume}
    notes: list[str] = []
    items = _plan(pictures, output, format, dataset, photos, column, notes.append)
    if len(items) == 1 and not dataset and items[0].target is not None:
        check_free(items[0].target, overwrite)  # of several, those that are there are kept
    settings = {
        "tile": _parse_tile(tile),
        "size": size,
        "look": look,
        "keep": (len(items) > 1 or dataset) and not overwrite,
        "allow_huge": allow_huge,
        "keep_metadata": keep_metadata,
        "format": format,
        "refine": refine,
        "painting": painting,
        "vgg_weights": vgg_weights,
    }
    announce = announce_for(stylize)
    with ended_by_sigterm(), recorded(report, process) as record:
        if one_video:
            if process.rank == 0:
                stylize_video(
                    photos[0], output, styles, video, clip_look, options, as_json, announce
                )
                record.videos = 1
            return
        _stylize_items(items, styles, options, settings, process, ray, record)
        clips = process.share(clips)
        videos = stylize_clips(clips, styles, video, clip_look, options, record, as_json, announce)
    wait_for_others(process)
    record.report.notes = notes * (process.rank == 0) + record.report.notes
    _print_pictures(record.report, record.engine, output, as_json, videos)


def _plan(
    pictures: list[str],
    output: str,
    format: str | None,
    dataset: bool,
    inputs: list[str],
    column: str | None,
    note: Callable[[str], None],
) -> list[Item]:
    """Return the pictures, or the shards of data sets, that are to be painted."""
    from faststyle.stylize.batch import plan_jobs
    from faststyle.stylize.shards import plan_shards

    if dataset:
        return list(plan_shards(inputs, output, column))
    return list(plan_jobs(pictures, output, format, note)) if pictures else []


def _stylize_items(
    items: list[Item],
    styles: list[str],
    engine: EngineOptions,
    settings: dict[str, Any],
    process: Process,
    ray: str | None,
    record: Record,
) -> None:
    """Stylize pictures or shards, with a bar, and record them and the line about the engine."""
    from faststyle.stylize.collection import Task, run_items
    from faststyle.stylize.ray import run_on_ray

    if not process.share(items):
        return
    task = Task(tuple(styles), engine, **settings)
    bars = _PictureBars(len(process.share(items)))
    if ray is not None:
        with bars.shown:
            announce = announce_for(stylize)
            run_on_ray(ray, task, items, record, bars.picture_done, announce)
        return
    task = task.for_items(items, process)
    stylizer = task.load(announce_for(stylize), bars.tile_done, bars.refining)
    record.loaded(stylizer.describe())
    with bars.shown:
        run_items(task, stylizer, items, record.report, process, bars.picture_done)
    record.engine = stylizer.describe()  # tiles may have run in another one


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: neither None nor a switch that is off."""
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }


def _refuse_for_videos(
    format: str | None, tile: str, allow_huge: bool, keep_metadata: bool
) -> None:
    """Raise BadParameter for the first option of pictures that was given."""
    if format is not None:
        raise typer.BadParameter("is for pictures; name a video with -o", param_hint="--format")
    if tile != "auto":
        raise typer.BadParameter("is for pictures; frames are done whole", param_hint="--tile")
    for flag, given in (("--allow-huge", allow_huge), ("--keep-metadata", keep_metadata)):
        if given:
            raise typer.BadParameter("is for pictures", param_hint=flag)


def _refuse_for_collections(
    ray: str | None,
    column: str | None,
    dataset: bool,
    videos: bool,
    inputs: list[str],
    output: str,
) -> None:
    """Raise BadParameter for an option of collections that does not fit the inputs."""
    from faststyle.stylize.batch import PIPE

    if column is not None and not dataset:
        raise typer.BadParameter("is for data sets", param_hint="--column")
    if ray is not None and (videos or PIPE in (*inputs, output)):
        raise typer.BadParameter("is for files of pictures and data sets", param_hint="--ray")


def _parse_tile(text: str) -> int | None:
    """Return the argument `tile` of `Stylizer` for an option."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    if text.isdecimal() and int(text) >= SMALLEST_TILE:
        return int(text)
    raise typer.BadParameter(
        f"auto, off, or {SMALLEST_TILE} or more pixels, got {text!r}", param_hint="--tile"
    )


def _parse_stroke_size(text: str | None, default: float | str) -> float | str:
    """Return the argument `stroke_size` of `Look` for an option; None is the default."""
    from faststyle.stylize.strokes import parse_stroke_size

    if text is None:
        return default
    try:
        return parse_stroke_size(text)
    except ValueError:
        raise typer.BadParameter(
            f"auto, or a number, got {text!r}", param_hint="--stroke-size"
        ) from None


class _PictureBars:
    """Bars of pictures, tiles, and seconds of refining; seen inside of `with bars.shown`."""

    def __init__(self, pictures: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.shown = Progress(console=console, disable=not console.is_terminal)
        self._pictures = self.shown.add_task("stylizing", total=pictures, visible=pictures > 1)
        self._tiles = self.shown.add_task("tiles", total=None, visible=False)
        self._seconds = self.shown.add_task("refining", total=None, visible=False)

    def picture_done(self, item: Item) -> None:
        self.shown.advance(self._pictures)

    def tile_done(self, done: int, of: int) -> None:
        self.shown.update(self._tiles, completed=done, total=of, visible=done < of)

    def refining(self, spent: float, of: float) -> None:
        self.shown.update(self._seconds, completed=spent, total=of, visible=spent < of)


def _print_pictures(
    report: Report, engine: str, output: str, as_json: bool, videos: list[VideoReport]
) -> None:
    """Print which pictures were written, and what was kept and not done of them and of videos.

    Raises: Exit where one failed.
    """
    from dataclasses import asdict

    from faststyle.stylize.batch import PIPE

    report.failed = [(name, with_flags(reason, stylize)) for name, reason in report.failed]
    print_notes(report.notes, stylize)
    kept = len(report.kept)
    written = report.written[0] if len(report.written) == 1 else f"{len(report.written)} pictures"
    if all(name.endswith(".parquet") for name in report.written + report.kept):
        written = f"{report.pictures} pictures in {len(report.written)} parquet files"
    if as_json:
        details = asdict(report)
        for count in ("pictures", "pictures_kept"):  # they are for --report
            del details[count]
        details["written"] += [video.output for video in videos]
        details |= {"videos": [asdict(video) for video in videos]} if videos else {}
        typer.echo(json.dumps(details), err=output == PIPE)
    elif output != PIPE and (report.written or kept):
        also = f", {kept} kept that were there (--overwrite writes them again)" if kept else ""
        shown = f" ({engine})" if engine else ""
        typer.echo(one_line(f"wrote {written}{also}{shown}"))
    # They come last, so that nothing buries them.
    for name, reason in report.failed:
        typer.echo(one_line(f"error: {name}: {reason}"), err=True)
    if report.failed:
        raise typer.Exit(1)


def run_stylize() -> None:
    """Run `faststyle stylize` as a program of its own: stylize.py."""
    run_alone(stylize)
