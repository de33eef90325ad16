"""Videos of `faststyle stylize`: with a bar of frames, and a line for each that is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from faststyle.errors import one_line

if TYPE_CHECKING:
    from faststyle.engines.options import EngineOptions
    from faststyle.stylize.clip import ClipJob
    from faststyle.stylize.report import Record
    from faststyle.stylize.stylizer import Look
    from faststyle.video.job import VideoProgress, VideoReport
    from faststyle.video.options import VideoOptions


def stylize_video(
    source: str,
    output: str,
    styles: list[str],
    settings: dict[str, Any],
    look: Look,
    engine: EngineOptions,
    as_json: bool,
    announce: Callable[[str], None],
) -> None:
    """Stylize one video, with a bar of frames, and print the result."""
    from dataclasses import asdict

    from faststyle.stylize.clip import stylize_clip

    options = _video_options(settings)
    with _frame_bar() as frame_done:
        report, description = stylize_clip(
            source, output, styles, options, look, engine, progress=frame_done, announce=announce
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        _print_video(report, description, announce)


def stylize_clips(
    clips: list[ClipJob],
    styles: list[str],
    settings: dict[str, Any],
    look: Look,
    engine: EngineOptions,
    record: Record,
    as_json: bool,
    announce: Callable[[str], None],
) -> list[VideoReport]:
    """Stylize several videos, and print each; record those that were done, kept and failed."""
    from faststyle.stylize.clip import run_clips

    if not clips:
        return []
    options = _video_options(settings)
    videos: list[VideoReport] = []

    def done(video: VideoReport, description: str) -> None:
        videos.append(video)
        record.videos += 1
        if not as_json:
            _print_video(video, description, announce)

    with _frame_bar() as frame_done:
        run_clips(
            clips,
            styles,
            options,
            look,
            engine,
            summary=record.report,
            done=done,
            progress=frame_done,
            announce=announce,
        )
    return videos


def _video_options(settings: dict[str, Any]) -> VideoOptions:
    from faststyle.video.options import VideoOptions, parse_rate

    if "fps" in settings:
        settings = {**settings, "fps": parse_rate(settings["fps"])}
    return VideoOptions(**settings)


def _print_video(report: VideoReport, engine: str, announce: Callable[[str], None]) -> None:
    """Print the result of one video, and the notes on what it could not keep."""
    resumed = f", {report.resumed} of them from before" if report.resumed else ""
    skipped = f", {report.skipped} damaged ones skipped" if report.skipped else ""
    typer.echo(
        one_line(
            f"wrote {report.output}: {report.frames} frames, {report.seconds:.1f} s"
            f"{resumed}{skipped} ({engine})"
        )
    )
    for note in report.notes:
        announce(f"note: {note}")


@contextmanager
def _frame_bar() -> Iterator[Callable[[VideoProgress], None]]:
    """Show a bar of frames; yield the function that moves it on."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

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

        def frame_done(progress: VideoProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, fps=progress.fps)

        yield frame_done
