"""Stylize videos in styles that are given by name: one, or several into a folder.

stylizer.py paints the frames; video/ reads and writes the files, for any function of a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import FaststyleError, ImageError, Interrupted, OutputError
from faststyle.files import sha256
from faststyle.stylize.batch import PIPE, Job, Report, check_distinct, find_files
from faststyle.stylize.blend import parse_style
from faststyle.stylize.strokes import AUTO as AUTO_STROKES
from faststyle.stylize.stylizer import PLAIN, Announce, Look, Stylizer
from faststyle.video.job import VideoProgress, VideoReport, stylize_video
from faststyle.video.options import CLIPS, CONTAINERS, VideoOptions, check_kinds, is_clip


@dataclass(frozen=True)
class ClipJob(Job):
    """One clip: the file to read, and the file to write."""

    source: Path
    target: Path


def stylize_clip(
    source: str | Path,
    target: str | Path,
    styles: Sequence[str],
    options: VideoOptions | None = None,
    look: Look = PLAIN,
    engine: EngineOptions = AUTO,
    *,
    progress: Callable[[VideoProgress], None] = lambda progress: None,
    announce: Announce = lambda line: None,
) -> tuple[VideoReport, str]:
    """Stylize a video; return its report, and the line that describes the engine.

    The networks are loaded only when the first frame has been read. They are converted for the
    fastest engine, since a video has many frames. A video that was stopped is resumed only with the
    same styles, look and precision. Raises: the errors of `stylize_video` and `Stylizer.blend`.

    Example:
        >>> stylize_clip("walk.mp4", "out.mp4", ["nocturne"])
    """
    check_clip_look(look)
    load = _loader(styles, engine, announce)
    report = stylize_video(
        source,
        target,
        lambda rgb: load().frame(rgb, look),
        options,
        style=_resume_name(styles, look, engine.precision),
        progress=progress,
    )
    return report, load().describe()


def plan_clips(inputs: Sequence[str], output: str) -> tuple[list[str], list[ClipJob]]:
    """Return the inputs that mean pictures, and the jobs of the clips among all inputs.

    Inputs are files, folders and globs; one that means both is in the first list too. Clips keep
    their names; those of a format that cannot be written become .mp4. Raises: OutputError when a
    clip would go to a picture or a pipe, over itself, or to the same file as another.
    """
    place = Path(output)
    pictures = []
    jobs = []
    for item in inputs:
        found = [] if item == PIPE else find_files(item, place.resolve(), CLIPS)
        clips = [(source, below) for source, below in found if source and is_clip(source)]
        for source, below in clips:
            writable = below.suffix.lower() in CONTAINERS
            target = place / (below if writable else below.with_suffix(".mp4"))
            jobs.append(ClipJob(source, target))
        # What means neither is left to the search for pictures, which says what is wrong.
        if not clips or any(p and not is_clip(p) for p, _ in find_files(item, place.resolve())):
            pictures.append(item)
    check_kinds(inputs, [job.source for job in jobs], output)
    for job in jobs:
        if job.source.resolve() == job.target.resolve():
            raise OutputError(f"`output` {job.target}: the input itself; choose another name")
    check_distinct(jobs)
    return pictures, jobs


def run_clips(
    jobs: Sequence[ClipJob],
    styles: Sequence[str],
    options: VideoOptions,
    look: Look = PLAIN,
    engine: EngineOptions = AUTO,
    *,
    summary: Report,
    done: Callable[[VideoReport, str], None],
    progress: Callable[[VideoProgress], None] = lambda progress: None,
    announce: Announce = lambda line: None,
) -> None:
    """Stylize several clips, and go on past one that fails.

    Add to `summary` what was kept and what failed, and call `done` with the report of each that was
    painted, and with the line that describes the engine. Outputs that are there are kept unless
    `options.overwrite`. Raises: OutputError for a full disk, and Interrupted; both end the run.
    """
    check_clip_look(look)
    load = _loader(styles, engine, announce)
    name = _resume_name(styles, look, engine.precision)
    for job in jobs:
        if job.target.exists() and not options.overwrite:
            summary.kept.append(str(job.target))
            continue
        try:
            report = stylize_video(
                job.source,
                job.target,
                lambda rgb: load().frame(rgb, look),
                options,
                style=name,
                progress=progress,
            )
        except (OutputError, Interrupted):
            raise
        except FaststyleError as error:
            reason = str(error).removeprefix(f"{job.source}: ")
            summary.failed.append((str(job.source), reason))
        else:
            done(report, load().describe())


def check_clip_look(look: Look) -> None:
    """Raise ImageError for a look that is for pictures only."""
    if look.stroke_size == AUTO_STROKES:
        raise ImageError("`stroke_size` auto is for pictures; give a number for videos")


def _loader(
    styles: Sequence[str], engine: EngineOptions, announce: Announce
) -> Callable[[], Stylizer]:
    """Return the function that loads the networks, once."""
    many = replace(engine, convert=True)
    return functools.cache(lambda: Stylizer.blend(styles, many, announce=announce))


def _resume_name(styles: Sequence[str], look: Look, precision: str) -> str:
    """Return a text that changes with the frames that are painted."""
    weighted = [(sha256(path), weight) for path, weight in map(parse_style, styles)]
    return f"{weighted} {look} {precision}"
