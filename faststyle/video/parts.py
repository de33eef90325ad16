"""What a job has done so far, in a folder beside its output: whole segments, and a manifest that
lists them.

What it is not: the content of segments. After kill -9 only what is not in the manifest is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from faststyle.errors import OutputError
from faststyle.files import write_bytes, writing
from faststyle.video.frames import Clip, Frame
from faststyle.video.options import VideoError
from faststyle.video.write import Segment, SegmentEncoder

MANIFEST = "manifest.json"
# Seconds. A key frame as often costs H.264 3 % more bits than none at 10 seconds, and as much is
# lost by kill -9.
SEGMENT_LENGTH = 5


class Parts:
    """The segments of a job. `job` is what decides over their content: with another, they are of no
    use.

    Raises: VideoError when they are to be resumed and belong to another job, OutputError when
    nothing can be written.
    """

    def __init__(self, folder: Path, job: dict[str, Any], resume: bool) -> None:
        self.folder, self.job = folder, json.loads(json.dumps(job))
        self.segments: list[Segment] = []
        manifest = folder / MANIFEST
        if resume and manifest.is_file():
            self.segments = self._read(manifest)
        elif folder.exists():
            self.remove()
        self._save()

    @property
    def next(self) -> int:
        """The tick from which on frames are missing."""
        return self.segments[-1].last + 1 if self.segments else 0

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return sum(segment.frames for segment in self.segments)

    def paths(self) -> list[Path]:
        """Return the files of all segments, in order."""
        return [self.folder / segment.file for segment in self.segments]

    def write(self, frames: Iterable[Frame], encoder: SegmentEncoder) -> None:
        """Encode frames into further segments, each listed once it is whole. Raises: OutputError."""
        suffix = ".mkv" if encoder.format == "matroska" else f".{encoder.format}"
        for _, group in groupby(frames, key=_Cut(encoder.clip)):
            path = self.folder / f"segment-{len(self.segments):05d}{suffix}"
            with writing(path) as temporary:
                segment = encoder.write(temporary, group)
            self.segments.append(replace(segment, file=path.name))
            self._save()

    def remove(self) -> None:
        """Delete them all, and what an interrupted write left. Raises: OutputError when other files are there too."""
        try:
            for file in [*self.folder.glob("*manifest.*"), *self.folder.glob("*segment-*")]:
                file.unlink()
            self.folder.rmdir()
        except OSError as error:
            raise OutputError(
                f"{self.folder}: in the way of what is kept for resuming; rename it"
            ) from error

    def _save(self) -> None:
        data = {"job": self.job, "segments": [asdict(segment) for segment in self.segments]}
        write_bytes(self.folder / MANIFEST, json.dumps(data, indent=1).encode())

    def _read(self, manifest: Path) -> list[Segment]:
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            before = data["job"]
            segments = [Segment(**entry) for entry in data["segments"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise VideoError(
                f"{manifest}: cannot be read; run without --resume to begin again"
            ) from error
        other = [key for key in self.job if before.get(key) != self.job[key]]
        if other:
            raise VideoError(
                f"{self.folder} was begun with another {' and '.join(other)}; run without --resume to begin again"
            )
        return list(takewhile(lambda segment: (self.folder / segment.file).is_file(), segments))


class _Cut:
    """Tells for each frame, in order, at which tick its segment starts."""

    def __init__(self, clip: Clip) -> None:
        self.length = Fraction(SEGMENT_LENGTH) / clip.time_base
        self.start: int | None = None

    def __call__(self, frame: Frame) -> int:
        if self.start is None or frame.pts - self.start >= self.length:
            self.start = frame.pts
        return self.start
