"""Stylize files, folders, globs and pipes. A file that cannot be done does not stop the others."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from faststyle.errors import (
    DeviceError,
    FaststyleError,
    ImageError,
    Interrupted,
    OutputError,
    one_line,
)
from faststyle.files import check_place, output_error, write_bytes
from faststyle.images import (
    HEIF,
    MAX_PIXELS,
    READABLE,
    WRITABLE,
    check_format_size,
    encode_picture,
    fit_metadata,
    looks_like_picture,
    notes_on,
    open_picture,
    output_format,
)
from faststyle.networks.network import MIN_SIDE
from faststyle.sizes import fitted_size
from faststyle.stylize.huge import (
    SUFFIXES,
    check_pixels,
    has_alpha,
    picture_size,
    pillow_without_limit,
    require_vips,
    why_not_by_vips,
)
from faststyle.stylize.stylizer import PLAIN, Look, Stylizer
from faststyle.stylize.tiles import TILE
from faststyle.video.options import CLIPS

Found = tuple[Path | None, Path]  # a file to read, and its path below the output folder

Note = Callable[[str], None]  # is called with a line that says what is done otherwise than asked

PIPE = "-"
NAMED = 3  # files that a note names; of more it tells how many there are
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
    """The files that were written, kept because they were there, or failed with a reason.

    `notes` say what was left out of pictures that were written. `pictures` counts those that were
    painted, and `pictures_kept` those of an earlier run: a file of a data set holds many.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: int = 0
    pictures_kept: int = 0

    def add(self, other: Report) -> None:
        """Add what another report tells."""
        self.written += other.written
        self.kept += other.kept
        self.failed += other.failed
        self.notes += other.notes
        self.pictures += other.pictures
        self.pictures_kept += other.pictures_kept


class Notes:
    """Notes on many pictures: each note is told once, with the pictures that it is about."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, notes: Iterable[str], name: str) -> None:
        """Add the notes on one picture."""
        for note in notes:
            self._names.setdefault(note, []).append(name)

    def pairs(self) -> list[tuple[str, str]]:
        """Return each note with the name of each picture."""
        return [(note, name) for note, names in self._names.items() for name in names]

    def lines(self) -> list[str]:
        """Return a line for each note."""
        return [f"{note}: {_some(names)}" for note, names in self._names.items()]


def plan_jobs(
    inputs: Iterable[str],
    output: str,
    format: str | None = None,
    note: Note = lambda line: None,
) -> list[Job]:
    """Return the jobs for inputs: files, folders, globs, or "-".

    One picture goes to a file, several go into a folder. Folders are read recursively and their
    structure is kept. `format` ("png", "jpg", "webp", "tif") changes the extension in a folder.
    `note` is told of files in folders that look like pictures and cannot be read.

    Raises: ImageError when nothing is found; OutputError when several would share one file, and for
    a place that cannot be written to.
    """
    inputs = list(inputs)
    found: list[Found] = []
    left_out: list[Path] = []
    for item in inputs:
        found += find_files(item, Path(output).resolve())
        left_out += _not_read(item, Path(output).resolve())
    found = list(dict.fromkeys(found))  # a file that was named twice is done once
    if left_out:
        note(_left_out_note(left_out))
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
    # Before anything is painted. One file tells it for its folder.
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target:
            targets.setdefault(job.target.parent, job.target)
    for target in targets.values():
        check_place(target)
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
    return [Job(source, target / below) for source, below in _name_outputs(found, format)]


def run_job(
    stylizer: Stylizer,
    job: Job,
    report: Report,
    notes: Notes,
    keep: bool,
    size: int | None = None,
    look: Look = PLAIN,
    allow_huge: bool = False,
    keep_metadata: bool = False,
) -> None:
    """Stylize one job, and add what became of it to `report` and `notes`.

    With `keep`, an output that is there stays as it is, so that a stopped run goes on where it was.
    `allow_huge` takes pictures that may be decompression bombs. `keep_metadata` keeps EXIF and XMP,
    which may tell where and when a photo was taken. A picture that fails is listed. Raises:
    OutputError for a full disk, and Interrupted; both end the run.
    """
    if keep and job.target is not None and job.target.exists():
        report.kept.append(str(job.target))
        report.pictures_kept += 1
        return
    name = str(job.source) if job.source else "standard input"
    try:
        found = _stylize_one(stylizer, job, name, size, look, allow_huge, keep_metadata)
    except (OutputError, Interrupted):
        raise
    except FaststyleError as error:
        report.failed.append((name, str(error).removeprefix(one_line(f"{name}: "))))
    else:
        report.written.append(str(job.target or PIPE))
        report.pictures += 1
        notes.add(found, name)


def _stylize_one(
    stylizer: Stylizer,
    job: Job,
    name: str,
    size: int | None,
    look: Look,
    allow_huge: bool,
    keep_metadata: bool,
) -> tuple[str, ...]:
    """Do a job; return the notes on it."""
    plain = replace(look, abstraction=None) == PLAIN
    plain = plain and size is None and not keep_metadata and stylizer.refiner is None
    tile = _tile_on_disk(stylizer, job, plain, allow_huge)
    if tile and job.source and job.target:
        with pillow_without_limit():
            notes = notes_on(job.source, name)
        if has_alpha(job.source):
            notes += ("too large for memory: alpha is left out, transparent pixels lie on white",)
        stylizer.stylize_on_disk(job.source, job.target, tile, look)
        return notes
    format = output_format(job.target) if job.target else "PNG"
    source = job.source or _read_stdin()
    data, notes = paint_file(stylizer, source, name, format, size, look, keep_metadata)
    if job.target is None:
        _write_stdout(data)
    else:
        write_bytes(job.target, data)
    return notes


def paint_file(
    stylizer: Stylizer,
    source: Path | bytes,
    name: str,
    format: str,
    size: int | None = None,
    look: Look = PLAIN,
    keep_metadata: bool = False,
) -> tuple[bytes, tuple[str, ...]]:
    """Return the image file of `format` that a stylizer paints of another, and the notes on it.

    Raises: ImageError for a picture that cannot be read, or is too large.
    """
    picture = open_picture(source, name, keep_metadata)
    h, w = picture.rgb.shape[-2:]
    check_format_size(*((h, w) if size is None else fitted_size(h, w, max(1, size))), format)
    stylized = fit_metadata(stylizer.stylize(picture, size, look), format)
    return encode_picture(stylized, format), stylized.notes


def _read_stdin() -> bytes:
    """Return a picture from standard input. Raises: ImageError."""
    if sys.stdin is None:
        raise ImageError("standard input: closed; pipe a picture into it, or name a file")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(
            f"standard input: cannot be read ({reason}); pipe a picture into it, or name a file"
        ) from None


def _write_stdout(data: bytes) -> None:
    """Write a picture to standard output. Raises: OutputError."""
    if sys.stdout is None:
        raise OutputError("cannot write standard output: it is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has enough, which is no error
        raise
    except OSError as error:
        raise output_error("standard output", error) from None


def _tile_on_disk(stylizer: Stylizer, job: Job, plain: bool, allow_huge: bool) -> int:
    """Return the side of tiles for a picture that is stylized on disk, 0 for one in memory.

    A picture is stylized on disk where memory asks for tiles, and where that can be done: with
    options that are not `plain` it cannot. Raises: ImageError for a picture that can be done
    neither in memory nor on disk.
    """
    found = picture_size(job.source) if job.source and job.source.is_file() else None
    if job.source is None or found is None:
        return 0
    h, w = found
    check_pixels(job.source, h, w, allow_huge)
    too_large = h * w > MAX_PIXELS  # for memory
    reason = _why_not_on_disk(job, plain)
    if reason and too_large:
        raise ImageError(f"{job.source}: {h}x{w} pixels{reason}")
    if reason:
        return 0
    tile = stylizer.find_tile(h, w, on_disk=True) or (TILE if too_large else 0)
    if not tile or not stylizer.can_run_tiles():
        return 0
    if min(h, w) < MIN_SIDE and not too_large:  # mirrored pixels would count as texture
        return 0
    reason = why_not_by_vips(job.source)
    if reason and too_large:
        raise ImageError(f"{job.source}: {h}x{w} pixels{reason}")
    if reason or (has_alpha(job.source) and not too_large):  # in memory alpha is kept
        return 0
    return tile


def _why_not_on_disk(job: Job, plain: bool) -> str:
    """Return why a picture cannot be stylized on disk, the end of a sentence, or an empty text."""
    writable = job.target is not None and job.target.suffix.lower() in SUFFIXES
    if not writable or not plain:
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
    several = _several_files(item, output)
    if several is None:
        return [(Path(item), Path(Path(item).name))]
    return [(path, below) for path, below in several if path.suffix.lower() in suffixes]


def _several_files(item: str, output: Path) -> list[tuple[Path, Path]] | None:
    """Return all files of a folder or a glob, None for an input that is neither.

    Those in the output folder are left out.
    """
    path = Path(item)
    if os.path.isdir(path):  # unlike is_dir, it takes names that are too long
        root = path.resolve()
        files = sorted(p for p in path.rglob("[!.]*") if p.is_file())
        below = [(p, p.relative_to(path)) for p in files]
        below = [(p, b) for p, b in below if not any(part.startswith(".") for part in b.parts)]
        # The output folder may lie in the input folder. Results of an earlier run are no inputs.
        return [(p, b) for p, b in below if root == output or not (root / b).is_relative_to(output)]
    if os.path.exists(path) or not glob.has_magic(item):
        return None
    return [
        (Path(p), Path(Path(p).name))
        for p in sorted(glob.glob(item, recursive=True))
        if Path(p).is_file() and not Path(p).resolve().is_relative_to(output)
    ]


def _not_read(item: str, output: Path) -> list[Path]:
    """Return the files of an input that look like pictures, and are neither read nor clips."""
    done = READABLE | CLIPS
    several = _several_files(item, output) or []
    return [p for p, _ in several if p.suffix.lower() not in done and looks_like_picture(p)]


def _left_out_note(files: list[Path]) -> str:
    """Return the note on files that look like pictures and are not read."""
    note = f"left out, not pictures that can be read: {_some([str(file) for file in files])}"
    if any(file.suffix.lower() in HEIF for file in files):
        note += '; HEIC needs pillow-heif: pip install -e ".[heic]"'
    return note


def _some(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _name_outputs(found: list[Found], format: str | None) -> list[Found]:
    """Return the pictures with the paths of their outputs below the output folder.

    Where several pictures of a folder would get one name, all but the one that has it already keep
    their old extension too: star.png, and star.gif.png of star.gif. So a name depends on no order.
    """
    named = [(source, below, _with_format(below, format)) for source, below in found]
    claims = Counter(output for _, _, output in named)
    return [
        (source, output if claims[output] == 1 or output == below else _long_name(below, output))
        for source, below, output in named
    ]


def _long_name(below: Path, output: Path) -> Path:
    return below.with_name(below.name + output.suffix)


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
