"""Stylize files, folders, globs and pipes: what to read, where to write, and to go on past a bad file."""

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
from faststyle.stylize.huge import SUFFIXES, check_pixels, picture_size, require_vips, stylize_huge
from faststyle.stylize.stylizer import PLAIN, Look, Stylizer
from faststyle.stylize.tiles import TILE

PIPE = "-"


@dataclass(frozen=True)
class Job:
    """One picture: where it is read (None is standard input), and where it is written (None is standard output)."""

    source: Path | None
    target: Path | None


@dataclass
class Report:
    """What became of many pictures: written, kept because they were there, and failed with their reason."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def plan_jobs(inputs: Iterable[str], output: str, format: str | None = None) -> list[Job]:
    """Return the jobs for files, folders, globs and "-": one picture to a file, several into a
    folder.

    Folders are read recursively and their structure is kept; `format` ("png", "jpg", "webp", "tif")
    changes the extension in a folder. Raises: ImageError when nothing is found, OutputError when
    several would share one file.
    """
    inputs = list(inputs)
    found: list[tuple[Path | None, Path]] = []  # (file, its path below the output folder)
    for item in inputs:
        found += _expand(item, Path(output).resolve())
    if not found:
        raise ImageError(
            f"no images in {', '.join(inputs)} ({', '.join(sorted(READABLE))} are looked for)"
        )
    if output == PIPE:
        if len(found) > 1:
            raise OutputError(f"-o - takes one picture, got {len(found)}; name a folder with -o")
        return [Job(found[0][0], None)]
    target = Path(output)
    one_file = len(found) == 1 and not any(Path(i).is_dir() for i in inputs) and not target.is_dir()
    if one_file and (target.suffix or found[0][0] is None):
        output_format(target)
        jobs = [Job(found[0][0], target)]
    else:
        if target.suffix.lower() in WRITABLE and not target.is_dir():
            raise OutputError(f"-o {output}: {len(found)} pictures need a folder, not a file")
        jobs = [Job(source, target / _with_format(below, format)) for source, below in found]
    for job in jobs:
        if (
            job.source is not None
            and job.target is not None
            and job.source.resolve() == job.target.resolve()
        ):
            raise OutputError(f"-o {job.target}: the input itself; choose another name")
    _check_distinct(jobs)
    return jobs


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
    """Stylize all jobs; a picture that fails does not stop the others.

    Several outputs that are there already are kept unless `overwrite`, so that a stopped run goes
    on where it was; a single output is always written. `allow_huge` takes pictures that may be
    decompression bombs. `done` is called after each job. Raises: OutputError for a full disk,
    Interrupted, at once.
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
    if _goes_over_disk(stylizer, job, size, look, allow_huge):
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


def _goes_over_disk(
    stylizer: Stylizer, job: Job, size: int | None, look: Look, allow_huge: bool
) -> bool:
    """Stylize a file that memory asks tiles for through scratch files, where that can be done;
    return whether it was.

    Raises: ImageError for a picture that neither memory nor this can take.
    """
    found = picture_size(job.source) if job.source and job.source.is_file() else None
    if job.source is None or found is None:
        return False
    h, w = found
    check_pixels(job.source, h, w, allow_huge)
    target = job.target
    if target is None or target.suffix.lower() not in SUFFIXES or size is not None or look != PLAIN:
        if h * w > MAX_PIXELS:
            raise ImageError(
                f"{job.source}: {h}x{w} pixels go to .png or .tif files only, with no other options"
            )
        return False
    network = stylizer.network
    try:
        require_vips()
    except DeviceError as error:
        if h * w > MAX_PIXELS:
            raise ImageError(f"{job.source}: {h}x{w} pixels: {error}") from error
        return False
    tile = stylizer.find_tile(h, w, on_disk=True) or (TILE if h * w > MAX_PIXELS else 0)
    if not tile or network is None:
        return False
    stylize_huge(network(), job.source, target, tile, stylizer.progress)
    stylizer.tiled = True
    return True


def _expand(item: str, output: Path) -> list[tuple[Path | None, Path]]:
    if item == PIPE:
        return [(None, Path("stdin.png"))]
    path = Path(item)
    if path.is_dir():
        root = path.resolve()
        files = sorted(
            p for p in path.rglob("[!.]*") if p.suffix.lower() in READABLE and p.is_file()
        )
        below = [(p, p.relative_to(path)) for p in files]
        # When the output folder lies in the input folder: not what an earlier run left there.
        return [(p, b) for p, b in below if root == output or not (root / b).is_relative_to(output)]
    if not path.exists() and glob.has_magic(item):
        files = [Path(p) for p in sorted(glob.glob(item, recursive=True))]
        return [(p, Path(p.name)) for p in files if p.suffix.lower() in READABLE and p.is_file()]
    return [(path, Path(path.name))]


def _with_format(path: Path, format: str | None) -> Path:
    """Return the path with an extension that can be written: the one asked for, its own, else PNG."""
    if format is not None:
        output_format(f"x.{format}")
        return path.with_suffix(f".{format}")
    return path if path.suffix.lower() in WRITABLE else path.with_suffix(".png")


def _check_distinct(jobs: list[Job]) -> None:
    seen: dict[Path, Path | None] = {}
    for job in jobs:
        if job.target is None:
            continue
        if job.target in seen:
            raise OutputError(
                f"{seen[job.target]} and {job.source} would both be written to {job.target}; rename one"
            )
        seen[job.target] = job.source
