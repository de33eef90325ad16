"""`faststyle compare flicker`: how much networks flicker on clips, as figures, a plot and clips.

judge/flicker.py measures, flicker_plot.py draws. A clip is read once for all networks. One thread
for each network writes a clip of three pictures: input, output, and error since the frame before.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import faststyle
from faststyle.checkpoint import find_checkpoint
from faststyle.compare.flicker_plot import plot_flicker
from faststyle.compare.results import FlickerRow
from faststyle.devices import machine
from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import CheckpointError, Interrupted, OutputError
from faststyle.extras import require
from faststyle.files import check_place, output_error, write_bytes, writing
from faststyle.flow import EXTRA, SMALLEST
from faststyle.judge.flicker import WINDOW, ErrorMap, FlickerMeter, noise_gain
from faststyle.progress import StepProgress
from faststyle.signals import Stop, noted_signals
from faststyle.stylize.stylizer import Announce, Stylizer
from faststyle.video.frames import Frame, PictureSource, Rgb
from faststyle.video.options import MP4, VideoError, VideoOptions, is_numbered
from faststyle.video.pipeline import FrameQueue, QueueClosedError
from faststyle.video.read import VideoSource, open_clip
from faststyle.video.smooth import Smoother
from faststyle.video.write import SegmentEncoder

JSON = "flicker.json"
PLOT = "flicker.png"
SIZE = 384  # pixels of the shorter side
HOTTEST = 0.125  # error that has the last colour of the heat map, in [0, 1]
HIDDEN = (70, 90, 110)  # the colour of pixels that the frame before does not show

T = TypeVar("T")


@dataclass(frozen=True)
class FlickerReport:
    """All rows, in the order of clips and then networks, and what a reader needs to repeat them."""

    rows: list[FlickerRow]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def compare_flicker(
    styles: Sequence[str],
    clips: Sequence[Path],
    folder: Path,
    *,
    size: int = SIZE,
    frames: int | None = None,
    smooth: float = 0.0,
    engine: EngineOptions = AUTO,
    overwrite: bool = False,
    quiet: bool = True,
    announce: Announce = lambda line: None,
) -> FlickerReport:
    """Measure the flicker of each network on each clip, and write all of it into `folder`.

    Larger clips are reduced to a shorter side of `size` pixels; of each, the first `frames` are
    taken, all by default. `smooth` is that of `VideoOptions`. Files that are there are only
    replaced with `overwrite`. Raises: the errors of `Stylizer.load`, VideoError, OutputError,
    Interrupted, DeviceError where packages of the extra are missing.
    """
    require("av", "cv2", "matplotlib", "scipy", extra=EXTRA)
    from av.error import FFmpegError

    paths = _distinct(styles)
    names = _clip_names(clips)
    files = {
        (clip, path.stem): folder / f"{names[clip]}-{path.stem}.mp4"
        for clip in clips
        for path in paths
    }
    outputs = [*files.values(), folder / JSON, folder / PLOT]
    _check_distinct(outputs, clips)
    _check_files(folder, outputs, overwrite)
    VideoOptions(smooth=smooth)  # refuses one that is out of range
    sources = [_open_source(clip, size) for clip in clips]
    many = replace(engine, convert=True)  # a clip has many frames
    stylizers = {path.stem: _load(path, many, announce) for path in paths}
    total = sum(min(one.clip.frames or frames or 0, frames or 10**9) for one in sources)
    # Figures of an earlier run must not stay beside new clips when this one is stopped.
    for file in (folder / PLOT, folder / JSON):
        _remove(file)
    rows = []
    notes = []
    with StepProgress("measuring", total, 0, quiet) as bar, noted_signals() as stop:
        work = _Work(stylizers, frames, smooth, bar, stop)
        for clip, source in zip(clips, sources, strict=True):
            targets = {name: files[clip, name] for name in stylizers}
            try:
                rows += work.measure(names[clip], source, targets)
            except FFmpegError as error:
                raise VideoError(f"{clip}: {error.strerror or error}") from error
            notes += [f"{clip}: {note}" for note in _notes(source, rows[-1])]
    about = _about(size, frames, smooth, {name: one.describe() for name, one in stylizers.items()})
    report = FlickerReport(rows, about, notes)
    write_bytes(folder / PLOT, plot_flicker(rows))
    write_bytes(folder / JSON, (report_json(report) + "\n").encode())
    return report


def report_json(report: FlickerReport) -> str:
    """Return a report as strict JSON."""
    return json.dumps(asdict(report), allow_nan=False)


def side_by_side(frame: Rgb, output: Rgb, error: ErrorMap | None) -> Rgb:
    """Return input, output and error beside each other, (H, 3 W, 3)."""
    cv2 = require("cv2", extra=EXTRA)
    heat = np.zeros_like(frame)
    if error is not None:
        levels = (error.error / HOTTEST * 255).clip(0, 255).astype(np.uint8)
        heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        heat[~error.visible] = HIDDEN
    return np.concatenate([frame, output, heat], axis=1)


@dataclass
class _Work:
    """Everything that stays the same from clip to clip, and the progress so far."""

    stylizers: dict[str, Stylizer]
    frames: int | None
    smooth: float
    bar: StepProgress
    stop: Stop
    done: int = 0

    def measure(
        self, name: str, source: VideoSource | PictureSource, files: dict[str, Path]
    ) -> list[FlickerRow]:
        """Return a row for each network, and write its clip."""
        clip = source.clip
        meter = FlickerMeter(len(self.stylizers))
        painters: list[Callable[[Rgb], Rgb]] = [one.frame for one in self.stylizers.values()]
        if self.smooth:
            painters = [Smoother(paint, self.smooth) for paint in painters]
        with _Writers(source, list(files.values())) as writers:
            for frame in islice(source.frames(), self.frames):
                if self.stop.number:
                    raise Interrupted(
                        f"stopped at frame {meter.frames} of {clip.path}; figures are not written",
                        self.stop.number,
                    )
                outputs = [paint(frame.rgb) for paint in painters]
                errors = meter.add(frame.rgb, outputs)
                for number, (output, error) in enumerate(zip(outputs, errors, strict=True)):
                    shown = side_by_side(frame.rgb, output, error)
                    writers.put(number, replace(frame, rgb=shown))
                self.done += 1
                self.bar.advance(self.done)
            if meter.frames < 2:
                raise VideoError(f"{clip.path}: one frame only; flicker needs two or more")
        before, *after = meter.figures()
        size = (clip.height, clip.width, float(clip.rate), meter.frames)
        return [
            FlickerRow(
                name, style, *size, noise_gain(one.still, before.still), one, before, file.name
            )
            for (style, file), one in zip(files.items(), after, strict=True)
        ]


class _CancelledError(Exception):
    """The frames of a clip ended before it was whole."""


class _Writers:
    """Writes clips in threads of their own. They get their names when the block ends well."""

    def __init__(self, source: VideoSource | PictureSource, files: Sequence[Path]) -> None:
        wide = replace(source.clip, width=3 * source.clip.width)
        encoders = [SegmentEncoder(wide, VideoOptions(), MP4) for _ in files]
        self.whole = threading.Event()
        self.queues = [FrameQueue() for _ in files]
        self.pool = ThreadPoolExecutor(len(files), "flicker")
        self.futures = [
            self.pool.submit(self._write, *parts)
            for parts in zip(files, self.queues, encoders, strict=True)
        ]

    def __enter__(self) -> _Writers:
        return self

    def put(self, number: int, frame: Frame) -> None:
        """Give a frame to a writer. Raises: QueueClosedError when it failed."""
        self.queues[number].put(frame)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.whole.set()
        for queue in self.queues:
            queue.close()
        self.pool.shutdown()
        failed = kind is None or issubclass(kind, QueueClosedError)
        for future in self.futures if failed else []:
            error = future.exception()
            if error is not None and not isinstance(error, _CancelledError):
                raise error

    def _write(self, file: Path, queue: FrameQueue, encoder: SegmentEncoder) -> None:
        try:
            with writing(file) as temporary:
                encoder.write(temporary, self._frames(queue))
        finally:
            queue.close()

    def _frames(self, queue: FrameQueue) -> Iterator[Frame]:
        yield from queue
        if not self.whole.is_set():
            raise _CancelledError


def _distinct(styles: Sequence[str]) -> list[Path]:
    """Return the files of the styles. Raises: CheckpointError for two of one name."""
    paths = [find_checkpoint(style) for style in styles]
    for name in _repeated([path.stem for path in paths]):
        raise CheckpointError(
            f"two networks are called {name!r}, and nothing would tell them apart; rename one"
        )
    return paths


def _clip_names(clips: Sequence[Path]) -> dict[Path, str]:
    """Return the names of clips, by which their outputs are called. Raises: VideoError."""
    names = [(clip.resolve().parent.name if is_numbered(clip) else clip.stem) for clip in clips]
    for name in _repeated(names):
        raise VideoError(
            f"two clips are called {name!r}, and their outputs would be one; rename one"
        )
    return dict(zip(clips, names, strict=True))


def _repeated(names: Sequence[T]) -> list[T]:
    return [name for name in names if names.count(name) > 1]


def _check_distinct(outputs: Sequence[Path], clips: Sequence[Path]) -> None:
    """Check that no output is written over another one, or over a clip. Raises: OutputError."""
    for file in _repeated(outputs):
        raise OutputError(f"{file} would be written twice; rename a clip or a network")
    inputs = {clip.resolve() for clip in clips}
    for file in outputs:
        if file.resolve() in inputs:
            raise OutputError(f"{file}: one of the clips itself; choose another `output`")


def _check_files(folder: Path, files: Sequence[Path], overwrite: bool) -> None:
    """Check that all outputs can be written. Raises: OutputError."""
    if os.path.isfile(folder):  # unlike is_file, it takes names that are too long
        raise OutputError(f"`output` {folder}: a file, where a folder is expected")
    there = next((file for file in files if os.path.exists(file)), None)
    if there and not overwrite:
        raise OutputError(
            f"{there} is there already: replace it with `overwrite`, or choose another `output`"
        )
    for file in files:
        check_place(file)


def _remove(file: Path) -> None:
    """Remove a file if it is there. Raises: OutputError."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(file, error) from error


def _open_source(path: Path, size: int) -> VideoSource | PictureSource:
    """Return a clip, reduced to a shorter side of `size` where it is larger. Raises: VideoError."""
    if size < SMALLEST:
        raise VideoError(f"`size` must be {SMALLEST} or more, got {size}")
    source = open_clip(path, VideoOptions(), MP4)
    side = min(source.clip.height, source.clip.width)
    if side < SMALLEST:
        raise VideoError(
            f"{path}: {source.clip.width}x{source.clip.height} pixels are too few to find motion; "
            f"{SMALLEST} or more a side"
        )
    return source if side <= size else open_clip(path, VideoOptions(size=size), MP4)


def _load(path: Path, options: EngineOptions, announce: Callable[[str], None]) -> Stylizer:
    return Stylizer.load(path, **asdict(options), announce=announce)


def _notes(source: VideoSource | PictureSource, row: FlickerRow) -> list[str]:
    """Return notes on a clip that was read, and on figures that it has not."""
    notes = [*source.clip.notes, *source.notes()]
    if source.skipped:
        notes.append(f"damaged frames are skipped: {source.skipped}")
    cuts = row.input.warping[0].by_frame.count(None)
    if cuts:
        notes.append(f"frames that share too little with the one before are left out: {cuts}")
    if row.input.still is None and row.frames < WINDOW:
        notes.append(f"fewer than {WINDOW} frames: too few for noise and spectrum")
    elif row.input.still is None:
        notes.append("too few still places for noise and spectrum")
    return notes


def _about(size: int, frames: int | None, smooth: float, engines: dict[str, str]) -> dict[str, Any]:
    import cv2

    return {
        "size": size,
        "frames": frames,
        "smooth": smooth,
        "engines": engines,
        "flow": "DIS, medium, of the input",
        "machine": machine(),
        "versions": {"faststyle": faststyle.__version__, "opencv": cv2.__version__},
    }
