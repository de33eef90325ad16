"""The finished segments of a job, in a folder beside its output, with a manifest that lists them.

A job that was killed loses only the segments that are not in the manifest. Segments are encoded in
write.py.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from faststyle.errors import OutputError
from faststyle.files import output_error, write_bytes, writing
from faststyle.video.frames import Clip, Frame, Memory
from faststyle.video.options import VideoError
from faststyle.video.write import Segment, SegmentEncoder

MANIFEST = "manifest.json"
# Seconds. Each segment starts with a key frame. One in 5 s costs H.264 3 % more bits than one in
# 10 s, and a kill loses no more than 5 s of frames.
SEGMENT_LENGTH = 5
BEGINS_AGAIN = "deletes them and begins again"


class Parts:
    """The segments of a job, in `folder`.

    `job` holds all settings that change their content. Segments are only resumed with the same.
    With `overwrite` and without `resume`, those of an earlier run are deleted.

    Raises: VideoError when there are segments of an earlier run that may not be deleted or cannot
    be resumed, OutputError when the folder cannot be written.
    """

    def __init__(self, folder: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
        self.folder = folder
        # Through JSON, so that it compares equal with the same job read from a manifest.
        self.job = json.loads(json.dumps(job))
        self.segments: list[Segment] = []
        manifest = folder / MANIFEST
        if manifest.is_file() and not (overwrite and not resume):
            self.segments = self._read(manifest)
            if self.segments and not resume:
                raise VideoError(
                    f"{folder} holds {self.frame_count} finished frames of a stopped run; "
                    f"`resume` goes on, `overwrite` {BEGINS_AGAIN}"
                )
        if folder.exists() and not self.segments:
            self.remove()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder.with_suffix(""), error) from error
        self._save()

    @property
    def next_tick(self) -> int:
        """Return the first tick that no segment covers."""
        return self.segments[-1].last + 1 if self.segments else 0

    @property
    def frame_count(self) -> int:
        """Return the number of frames in all segments."""
        return sum(segment.frames for segment in self.segments)

    def paths(self) -> list[Path]:
        """Return the files of all segments, in order."""
        return [self.folder / segment.file for segment in self.segments]

    def write(self, frames: Iterable[Frame], encoder: SegmentEncoder) -> None:
        """Encode frames into new segments; list each when it is complete. Raises: OutputError."""
        suffix = ".mkv" if encoder.format == "matroska" else f".{encoder.format}"
        for _, group in groupby(frames, key=_SegmentStarts(encoder.clip)):
            path = self.folder / f"segment-{len(self.segments):05d}{suffix}"
            # The manifest comes last: it lists only segments that are whole under their final name.
            last = _LastOf(group)
            with writing(path) as temporary:
                segment = encoder.write(temporary, last)
            if last.frame is not None and last.frame.memory is not None:
                with writing(_memory_of(path)) as temporary:
                    np.savez(temporary, **last.frame.memory._asdict())
            before = self.paths()[-1:]
            self.segments.append(replace(segment, file=path.name))
            self._save()
            for old in before:  # only the newest is needed
                _memory_of(old).unlink(missing_ok=True)

    def read_memory(self) -> Memory | None:
        """Return the memory after the last frame, None without any frame. Raises: VideoError."""
        if not self.segments:
            return None
        file = _memory_of(self.paths()[-1])
        try:
            # np.load leaves a damaged file open.
            with file.open("rb") as opened, np.load(opened) as arrays:
                return Memory(**arrays)
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise VideoError(
                f"{file}: what smoothing needs to go on cannot be read; "
                f"`overwrite` without `resume` {BEGINS_AGAIN}"
            ) from error

    def remove(self) -> None:
        """Delete the folder with its segments and temporary files.

        Raises: OutputError when the folder holds other files too; they are not touched.
        """
        try:
            for file in [*self.folder.glob("*manifest.*"), *self.folder.glob("*segment-*")]:
                file.unlink()
            self.folder.rmdir()
        except OSError as error:
            raise OutputError(
                f"{self.folder}: in the way of the files that are kept for resuming; rename it"
            ) from error

    def _save(self) -> None:
        data = {"job": self.job, "segments": [asdict(segment) for segment in self.segments]}
        write_bytes(self.folder / MANIFEST, json.dumps(data, indent=1).encode())

    def _read(self, manifest: Path) -> list[Segment]:
        """Return the listed segments up to the first whose file is missing.

        Raises: VideoError when they are those of another job.
        """
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            old_job = data["job"]
            segments = [Segment(**entry) for entry in data["segments"]]
            changed = [key for key in self.job if old_job.get(key) != self.job[key]]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise VideoError(
                f"{manifest}: cannot be read; `overwrite` without `resume` {BEGINS_AGAIN}"
            ) from error
        # The video resumes where the first file is missing, so later segments are of no use.
        found = list(takewhile(lambda segment: (self.folder / segment.file).is_file(), segments))
        if found and changed:
            raise VideoError(
                f"{self.folder} holds frames of a run that was begun with another "
                f"{' and '.join(changed)}; `overwrite` without `resume` {BEGINS_AGAIN}"
            )
        return found


def _memory_of(segment: Path) -> Path:
    """Return the file that holds the memory after the last frame of a segment."""
    return segment.with_suffix(".npz")


class _LastOf:
    """Yields frames, and keeps the last one."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames = frames
        self.frame: Frame | None = None

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            self.frame = frame
            yield frame


class _SegmentStarts:
    """Maps frames, which come in order, to the start tick of the segment that they belong to."""

    def __init__(self, clip: Clip) -> None:
        self.length = Fraction(SEGMENT_LENGTH) / clip.time_base
        self.start: int | None = None

    def __call__(self, frame: Frame) -> int:
        if self.start is None or frame.pts - self.start >= self.length:
            self.start = frame.pts
        return self.start
