"""Stylize a video: its pictures by a network, all else as it was.

    source -> frames -> [queue] -> network -> [queue] -> segments, each listed in OUT.parts/ once it
    is whole segments + sound, subtitles and chapters of the source -> OUT

What it is not: a network; any function from a picture to a picture will do. Files are read by
read.py, encoded by write.py, put together by mux.py and pictures.py; parts.py keeps what resuming
needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faststyle.errors import Interrupted, OutputError
from faststyle.files import writing
from faststyle.signals import Stop, noted_signals
from faststyle.video.frames import Clip, Rgb
from faststyle.video.mux import Cut, describe_tracks, mux
from faststyle.video.options import (
    PICTURES,
    Target,
    VideoError,
    VideoOptions,
    check_target,
    find_target,
    require_av,
)
from faststyle.video.parts import Parts
from faststyle.video.pictures import write_gif, write_pictures
from faststyle.video.pipeline import overlap
from faststyle.video.read import VideoSource, open_source
from faststyle.video.write import SegmentEncoder

__all__ = ["VideoError", "VideoOptions", "VideoProgress", "VideoReport", "stylize_video"]


@dataclass(frozen=True)
class VideoProgress:
    """How far a job is: frames done, of how many if that is known, frames a second, and seconds left."""

    done: int
    total: int | None
    fps: float
    seconds_left: float | None


@dataclass(frozen=True)
class VideoReport:
    """What became of a video.

    `seconds` is how long it plays, `skipped` how many frames were damaged, `resumed` how many were
    there already, and `notes` say what could not be kept as it was.
    """

    output: str
    frames: int
    seconds: float
    skipped: int
    resumed: int
    notes: tuple[str, ...]


def stylize_video(
    source: str | Path,
    target: str | Path,
    stylize: Callable[[Rgb], Rgb],
    options: VideoOptions | None = None,
    *,
    style: str = "",
    progress: Callable[[VideoProgress], None] = lambda progress: None,
) -> VideoReport:
    """Stylize the frames of a video; timing, colours, sound, subtitles and chapters are kept.

    `source` is a video, a pattern such as frames/%05d.png, or a folder of pictures; `target` a file
    (.mp4, .mov, .mkv, .webm, .gif), a pattern, or a folder. `stylize` takes (H, W, 3) uint8 RGB and
    returns the same shape, in an array of its own. `style` names what it does: with another,
    nothing is resumed. `progress` is called after each frame.

    The output has its name only once it is whole. After an error or a signal what was done stays in
    OUT.parts/, where `options.resume` finds it; SIGINT and SIGTERM leave OUT.partial.mp4 besides.
    Raises: VideoError, OutputError, Interrupted, DeviceError without PyAV.

    Example:
        >>> stylize_video("walk.mp4", "out.mp4", lambda rgb: 255 - rgb)
    """
    options = options or VideoOptions()
    require_av()
    from av.error import FFmpegError

    try:
        return _Job(Path(source), Path(target), options, style).run(stylize, progress)
    except FFmpegError as error:  # what nothing below has an answer to
        raise VideoError(f"{source}: {error.strerror or error}") from error


class _Job:
    """One video on its way."""

    def __init__(self, source: Path, target: Path, options: VideoOptions, style: str) -> None:
        self.options, self.target = options, find_target(target)
        check_target(self.target, source, options.overwrite)
        self.source = open_source(source, options, self.target.container)
        self.encoder = SegmentEncoder(self.source.clip, options, self.target.container)
        self.parts = Parts(
            self.target.parts,
            _identity(self.source.clip, self.target, options, style),
            options.resume,
        )

    def run(
        self, stylize: Callable[[Rgb], Rgb], progress: Callable[[VideoProgress], None]
    ) -> VideoReport:
        parts = self.parts
        resumed = self.parts.frames
        counter = _Counter(resumed, self.source.clip.frames, progress)
        with noted_signals() as stop:
            try:
                whole = overlap(
                    self.source.frames(parts.next),
                    stylize,
                    lambda frames: parts.write(frames, self.encoder),
                    lambda: stop.number != 0,
                    counter.count,
                )
                if not whole:
                    raise self._interrupted(stop)
                if not parts.segments:
                    raise VideoError(
                        f"{self.source.clip.path}: no frames after {self.options.begin} s"
                    )
                notes = self._put_together(self.target, lambda: self._check(stop))
            finally:
                if not parts.segments:
                    parts.remove()
        parts.remove()
        clip = self.source.clip
        if self.source.crowded:
            gap = float(self.target.container.gap * clip.time_base * 1000)
            notes.append(
                f"{self.source.crowded} frames are left out that came less than {gap:g} ms after another"
            )
        return VideoReport(
            output=str(self.target.path),
            frames=parts.frames,
            seconds=float((parts.segments[-1].end - parts.segments[0].start) * clip.time_base),
            skipped=self.source.skipped,
            resumed=resumed,
            notes=(*clip.notes, *self.encoder.notes, *notes),
        )

    def _put_together(
        self, target: Target, check: Callable[[], None], stopped: bool = False
    ) -> list[str]:
        """Write the output from its segments; return what of the source it does not hold."""
        clip = self.source.clip
        parts = self.parts
        container = target.container
        tracks = isinstance(self.source, VideoSource)
        if container.codec is not None:
            length = parts.segments[-1].end * clip.time_base if stopped else self.options.length
            cut = Cut(clip.zero, length, whole=self.options.start is None)
            with writing(target.path) as temporary:
                return mux(temporary, parts, clip, container, cut, tracks, check)
        if container is PICTURES:
            write_pictures(target.path, parts, clip, check)
        else:
            with writing(target.path) as temporary:
                write_gif(temporary, parts, clip, check)
        names = describe_tracks(clip.path) if tracks else []
        return [f"{name} is left out: the output is pictures only" for name in names]

    def _check(self, stop: Stop) -> None:
        if stop.number:
            what = f"stopped while {self.target.path} was put together; --resume finishes it"
            raise Interrupted(what, stop.number)

    def _interrupted(self, stop: Stop) -> Interrupted:
        """Write what there is under the name of a partial output, and return what to raise."""
        if not self.parts.segments:
            return Interrupted("stopped before the first frame was done", stop.number)
        partial = self.target.partial
        try:
            self._put_together(partial, lambda: None, stopped=True)
            left = f"{partial.place} holds them"
        except OutputError as error:
            left = str(error)
        return Interrupted(
            f"stopped after {self.parts.frames} frames: {left}; --resume goes on", stop.number
        )


class _Counter:
    """Tells of progress; frames that were there already count, but not for the speed."""

    def __init__(
        self, there: int, total: int | None, progress: Callable[[VideoProgress], None]
    ) -> None:
        self.done = there
        self.there = there
        self.total = total
        self.progress = progress
        self.started = time.monotonic()

    def count(self) -> None:
        self.done += 1
        fps = (self.done - self.there) / max(1e-9, time.monotonic() - self.started)
        left = None if self.total is None else max(0, self.total - self.done) / fps
        self.progress(VideoProgress(self.done, self.total, fps, left))


def _identity(
    clip: Clip, target: Target, options: VideoOptions, style: str
) -> dict[str, str | float | None]:
    """Return all that decides over what is in segments."""
    import av

    return {
        "source": clip.identity,
        "style": style,
        "format": target.container.format,
        "codec": options.codec,
        "quality": options.quality,
        "preset": options.preset,
        "fps": None if options.rate is None else str(options.rate),
        "start": options.start,
        "end": options.end,
        "size": options.size,
        "PyAV": av.__version__,
    }
