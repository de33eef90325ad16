"""Stylize a video in styles that are given by name.

stylizer.py paints the frames; video/ reads and writes the files, for any function of a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from faststyle.engines.options import AUTO, EngineOptions
from faststyle.files import sha256
from faststyle.stylize.blend import parse_style
from faststyle.stylize.stylizer import PLAIN, Announce, Look, Stylizer
from faststyle.video.job import VideoProgress, VideoReport, stylize_video
from faststyle.video.options import VideoOptions


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
    many = replace(engine, convert=True)
    load = functools.cache(lambda: Stylizer.blend(styles, many, announce=announce))
    report = stylize_video(
        source,
        target,
        lambda rgb: load().frame(rgb, look),
        options,
        style=_resume_name(styles, look, engine.precision),
        progress=progress,
    )
    return report, load().describe()


def _resume_name(styles: Sequence[str], look: Look, precision: str) -> str:
    """Return a text that changes with the frames that are painted."""
    weighted = [(sha256(path), weight) for path, weight in map(parse_style, styles)]
    return f"{weighted} {look} {precision}"
