"""Stylize files, folders, globs and pipes. A file that cannot be done does not stop the others."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from faststyle.errors import DeviceError, FaststyleError, ImageError, Interrupted, OutputError
from faststyle.files import write_bytes
from faststyle.images import (
    MAX_PIXELS,
    READABLE,
    WRITABLE,
    encode_image,
    open_picture,
    output_format,
)
from faststyle.stylize.huge import SUFFIXES, check_pixels, picture_size, require_vips
from faststyle.stylize.stylizer import PLAIN, Look, Stylizer
from faststyle.stylize.tiles import TILE

Found = tuple[Path | None, Path]  # a file to read, and its path below the output folder

PIPE = "-"
MANY = 20  # pictures that are worth the 10 s of converting a network for another engine


@dataclass(frozen=True)
class Job:
    """One picture: the file to read, and the file to write.

    None is standard input, or standard output.
    """

    source: Path | None
    target: Path | None


@dataclass
class Report:
    """The pictures that were written, kept because they were there, or failed with a reason."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def plan_jobs(inputs: Iterable[str], output: str, format: str | None = None) -> list[Job]:
    """Return the jobs for inputs: files, folders, globs, or "-".

    One picture goes to a file, several go into a folder. Folders are read recursively and their
    structure is kept. `format` ("png", "jpg", "webp", "tif") changes the extension in a folder.
    Raises: ImageError when nothing is found, OutputError when several would share one file.
    """
    inputs = list(inputs)
    found: list[Found] = []
    for item in inputs:
        found += find_files(item, Path(output).resolve())
    if not found:
        raise ImageError(
            f"no images in {', '.join(inputs)} ({', '.join(sorted(READABLE))} are looked for)"
        )
    if output == PIPE:
        if len(found) > 1:
            raise OutputError(
                f"`output` - takes one picture, got {len(found)}; name a folder with `output`"
            )
        return [Job(found[0][0], None)]
    jobs = _plan_files(found, inputs, Path(output), format)
    for job in jobs:
        if job.source and job.target and job.source.resolve() == job.target.resolve():
            raise OutputError(f"`output` {job.target}: the input itself; choose another name")
    check_distinct(jobs)
    return jobs


def _plan_files(
    found: list[Found], inputs: list[str], target: Path, format: str | None
) -> list[Job]:
    """Return the jobs that write to a file or into a folder. Raises: OutputError."""
    one_file = len(found) == 1 and not any(Path(i).is_dir() for i in inputs) and not target.is_dir()
    if one_file and (target.suffix or found[0][0] is None):
        output_format(target)
        return [Job(found[0][0], target)]
    if target.suffix.lower() in WRITABLE and not target.is_dir():
        raise OutputError(f"`output` {target}: {len(found)} pictures need a folder, not a file")
    return [Job(source, target / _with_format(below, format)) for source, below in found]


def run_jobs(
    stylizer: Stylizer,
    jobs: Iterable[Job],
    *,
    size: int | None = None,
    look: Look = PLAIN,
    overwrite: bool = False,
    allow_huge: bool = False,
    done: Callable[[Job], None] = lambda job: None,
) -> Report:
    """Stylize all jobs, and go on past a picture that fails.

    Of several outputs, those that are there are kept unless `overwrite`, so that a stopped run goes
    on where it was. A single output is always written. `allow_huge` takes pictures that may be
    decompression bombs. `done` is called after each job. Raises: OutputError for a full disk, and
    Interrupted; both end the run at once.
    """
    jobs = list(jobs)
    report = Report()
    for job in jobs:
        if len(jobs) > 1 and not overwrite and job.target is not None and job.target.exists():
            report.kept.append(str(job.target))
            done(job)
            continue
        name = str(job.source) if job.source else "standard input"
        try:
            _stylize_one(stylizer, job, name, size, look, allow_huge)
        except (OutputError, Interrupted):
            raise
        except FaststyleError as error:
            report.failed.append((name, str(error).removeprefix(f"{name}: ")))
        else:
            report.written.append(str(job.target or PIPE))
        done(job)
    return report


def _stylize_one(
    stylizer: Stylizer, job: Job, name: str, size: int | None, look: Look, allow_huge: bool
) -> None:
    tile = _tile_on_disk(stylizer, job, size, look, allow_huge)
    if tile and job.source and job.target:
        stylizer.stylize_on_disk(job.source, job.target, tile)
        return
    picture = open_picture(job.source if job.source else sys.stdin.buffer.read(), name)
    stylized = stylizer.stylize(picture, size, look)
    format = output_format(job.target) if job.target else "PNG"
    data = encode_image(stylized.rgb, format, stylized.alpha, stylized.icc)
    if job.target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_bytes(job.target, data)


def _tile_on_disk(
    stylizer: Stylizer, job: Job, size: int | None, look: Look, allow_huge: bool
) -> int:
    """Return the side of tiles for a picture that is stylized on disk, 0 for one in memory.

    A picture is stylized on disk where memory asks for tiles, and where that can be done. Raises:
    ImageError for a picture that can be done neither in memory nor on disk.
    """
    found = picture_size(job.source) if job.source and job.source.is_file() else None
    if job.source is None or found is None:
        return 0
    h, w = found
    check_pixels(job.source, h, w, allow_huge)
    too_large = h * w > MAX_PIXELS  # for memory
    reason = _why_not_on_disk(job, size, look)
    if reason and too_large:
        raise ImageError(f"{job.source}: {h}x{w} pixels{reason}")
    if reason:
        return 0
    tile = stylizer.find_tile(h, w, on_disk=True) or (TILE if too_large else 0)
    return tile if stylizer.can_run_tiles() else 0


def _why_not_on_disk(job: Job, size: int | None, look: Look) -> str:
    """Return why a picture cannot be stylized on disk, the end of a sentence, or an empty text."""
    writable = job.target is not None and job.target.suffix.lower() in SUFFIXES
    if not writable or size is not None or look != PLAIN:
        return " go to .png or .tif files only, with no other options"
    try:
        require_vips()
    except DeviceError as error:
        return f": {error}"
    return ""


def find_files(item: str, output: Path, suffixes: frozenset[str] = READABLE) -> list[Found]:
    """Return the files that an input means, without those that are in the output folder.

    In folders and globs, these are the files with one of `suffixes`.
    """
    if item == PIPE:
        return [(None, Path("stdin.png"))]
    path = Path(item)
    if path.is_dir():
        root = path.resolve()
        files = sorted(
            p for p in path.rglob("[!.]*") if p.suffix.lower() in suffixes and p.is_file()
        )
        below = [(p, p.relative_to(path)) for p in files]
        # The output folder may lie in the input folder. Results of an earlier run are no inputs.
        return [(p, b) for p, b in below if root == output or not (root / b).is_relative_to(output)]
    if not path.exists() and glob.has_magic(item):
        files = [Path(p) for p in sorted(glob.glob(item, recursive=True))]
        return [(p, Path(p.name)) for p in files if p.suffix.lower() in suffixes and p.is_file()]
    return [(path, Path(path.name))]


def _with_format(path: Path, format: str | None) -> Path:
    """Return a path with an extension that can be written: `format`, else its own, else .png."""
    if format is not None:
        output_format(f"x.{format}")
        return path.with_suffix(f".{format}")
    return path if path.suffix.lower() in WRITABLE else path.with_suffix(".png")


def check_distinct(jobs: Iterable[Job]) -> None:
    """Raise OutputError for two jobs that write the same file."""
    seen: dict[Path, Path | None] = {}
    for job in jobs:
        if job.target is None:
            continue
        if job.target in seen:
            raise OutputError(
                f"{seen[job.target]} and {job.source} would both be written to {job.target}; "
                "rename one"
            )
        seen[job.target] = job.source
