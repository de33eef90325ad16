"""Stylize a video: a network changes its pictures, and everything else stays as it was.

    source -> frames -> [queue] -> network -> [queue] -> segments in OUT.parts/
    segments + sound, subtitles and chapters of the source -> OUT

Each segment is listed in OUT.parts/ when it is complete; a stopped job resumes after the last one.
Files are read in read.py, encoded in write.py, and put together in mux.py and pictures.py.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faststyle.errors import Interrupted, OutputError
from faststyle.files import writing
from faststyle.signals import Stop, noted_signals
from faststyle.video.frames import Clip, Rgb
from faststyle.video.mux import TimeSpan, describe_tracks, mux
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
from faststyle.video.pipeline import run_pipeline
from faststyle.video.read import VideoSource, open_clip
from faststyle.video.smooth import Smoother, check_smooth
from faststyle.video.write import SegmentEncoder, holds_alpha

__all__ = ["VideoError", "VideoOptions", "VideoProgress", "VideoReport", "stylize_video"]


@dataclass(frozen=True)
class VideoProgress:
    """The progress of a job: `done` frames of `total` (None if unknown), and its speed.

    `fps` is in frames a second. `seconds_left` is an estimate, None without a total.
    """

    done: int
    total: int | None
    fps: float
    seconds_left: float | None


@dataclass(frozen=True)
class VideoReport:
    """The result of a job.

    `frames` are in the output, which plays for `seconds`. `skipped` frames of the source were
    damaged. `resumed` frames came from an earlier, stopped run. `notes` name the properties and
    tracks of the source that the output could not keep.
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
    """Stylize the frames of a video; keep its timing, colours, sound, subtitles and chapters.

    `source` is a video, a pattern such as frames/%05d.png, or a folder of pictures. `target` is a
    file (.mp4, .mov, .mkv, .webm, .gif), a pattern, or a folder. `stylize` takes (H, W, 3) uint8
    RGB and returns a new array of the same shape. `style` names the style and its settings: a job
    is resumed only with the same name. `progress` is called after each frame.

    The output gets its name only when it is complete. After an error or a signal the finished
    segments stay in OUT.parts/: `options.resume` goes on with them, `options.overwrite` alone
    deletes them, and a job with neither is refused. SIGINT and SIGTERM also leave a video of the
    frames so far, OUT.partial.mp4.

    Raises: VideoError, OutputError, Interrupted, DeviceError without PyAV.

    Example:
        >>> stylize_video("walk.mp4", "out.mp4", lambda rgb: 255 - rgb)
    """
    options = options or VideoOptions()
    require_av()
    from av.error import FFmpegError

    try:
        return _VideoJob(Path(source), Path(target), options, style).run(stylize, progress)
    except FFmpegError as error:  # those that no code below turns into an error of ours
        raise VideoError(f"{source}: {error.strerror or error}") from error


class _VideoJob:
    """One video from source to target, with the segments in between."""

    def __init__(self, source: Path, target: Path, options: VideoOptions, style: str) -> None:
        self.options = options
        self.target = find_target(target)
        check_target(self.target, source, options.overwrite)
        keeps_alpha = self.target.holds_alpha and holds_alpha(options, self.target.container)
        self.source = open_clip(source, options, self.target.container, keeps_alpha)
        if options.smooth:
            check_smooth(self.source.clip)
        self.encoder = SegmentEncoder(self.source.clip, options, self.target.container)
        self.parts = Parts(
            self.target.parts,
            _segment_settings(self.source.clip, self.target, options, style),
            options.resume,
            options.overwrite,
        )

    def run(
        self, stylize: Callable[[Rgb], Rgb], progress: Callable[[VideoProgress], None]
    ) -> VideoReport:
        parts = self.parts
        resumed = parts.frame_count
        smoother = None
        if self.options.smooth:
            smoother = Smoother(stylize, self.options.smooth, parts.read_memory())
        counter = _ProgressCounter(resumed, self.source.clip.frames, progress)
        with noted_signals() as stop:
            try:
                complete = run_pipeline(
                    self.source.frames(parts.next_tick),
                    smoother or stylize,
                    lambda frames: parts.write(frames, self.encoder),
                    lambda: stop.number != 0,
                    counter.count,
                    lambda: smoother.memory if smoother else None,
                )
                if not complete:
                    raise self._interrupted(stop)
                if not parts.segments:
                    raise VideoError(
                        f"{self.source.clip.path}: no frames after {self.options.begin} s"
                    )
                notes = self._assemble(self.target, lambda: self._raise_if_stopped(stop))
            finally:
                # A folder without segments is no use for resuming.
                if not parts.segments:
                    parts.remove()
        parts.remove()
        for half in self.target.leftovers():
            with contextlib.suppress(OSError):
                shutil.rmtree(half) if half.is_dir() else half.unlink()
        if stop.number:
            raise Interrupted(f"stopped after {self.target.place} was written", stop.number)
        return self._report(resumed, notes)

    def _report(self, resumed: int, notes: list[str]) -> VideoReport:
        parts = self.parts
        clip = self.source.clip
        return VideoReport(
            output=str(self.target.path),
            frames=parts.frame_count,
            seconds=float((parts.segments[-1].end - parts.segments[0].start) * clip.time_base),
            skipped=self.source.skipped,
            resumed=resumed,
            notes=(*clip.notes, *self.source.notes(), *self.encoder.notes, *notes),
        )

    def _assemble(
        self, target: Target, raise_if_stopped: Callable[[], None], partial: bool = False
    ) -> list[str]:
        """Write the output from the segments; return notes on the tracks that it does not keep.

        A `partial` output ends with the last segment, and so does its sound.
        """
        clip = self.source.clip
        parts = self.parts
        container = target.container
        has_tracks = isinstance(self.source, VideoSource)
        if container.codec is not None:
            # Sound of a partial output must not play on after its last frame.
            length = parts.segments[-1].end * clip.time_base if partial else self.options.length
            span = TimeSpan(clip.zero, length, from_start=self.options.start is None)
            with writing(target.path) as temporary:
                return mux(temporary, parts, clip, container, span, has_tracks, raise_if_stopped)
        if container is PICTURES:
            write_pictures(target.path, parts, clip, raise_if_stopped)
        else:
            with writing(target.path) as temporary:
                write_gif(temporary, parts, clip, raise_if_stopped)
        names = describe_tracks(clip.path) if has_tracks else []
        return [f"{name} is left out: the output is pictures only" for name in names]

    def _raise_if_stopped(self, stop: Stop) -> None:
        if stop.number:
            message = f"stopped while {self.target.path} was put together; `resume` finishes it"
            raise Interrupted(message, stop.number)

    def _interrupted(self, stop: Stop) -> Interrupted:
        """Write the frames so far as a partial output; return the error to raise."""
        if not self.parts.segments:
            return Interrupted("stopped before the first frame was done", stop.number)
        partial = self.target.partial
        try:
            self._assemble(partial, lambda: None, partial=True)
            outcome = f"{partial.place} holds them"
        except OutputError as error:
            outcome = str(error)
        return Interrupted(
            f"stopped after {self.parts.frame_count} frames: {outcome}; `resume` goes on",
            stop.number,
        )


class _ProgressCounter:
    """Counts frames and reports progress. Resumed frames count, but not for the speed."""

    def __init__(
        self, resumed: int, total: int | None, progress: Callable[[VideoProgress], None]
    ) -> None:
        self.done = resumed
        self.resumed = resumed
        self.total = total
        self.progress = progress
        self.started = time.monotonic()

    def count(self) -> None:
        self.done += 1
        fps = (self.done - self.resumed) / max(1e-9, time.monotonic() - self.started)
        left = None if self.total is None else max(0, self.total - self.done) / fps
        self.progress(VideoProgress(self.done, self.total, fps, left))


def _segment_settings(
    clip: Clip, target: Target, options: VideoOptions, style: str
) -> dict[str, str | float | None]:
    """Return all settings that change the content of segments."""
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
        "smooth": options.smooth or None,
        "alpha": clip.alpha or None,
        # Another version may have other encoders, whose segments do not fit together.
        "PyAV": av.__version__,
    }
