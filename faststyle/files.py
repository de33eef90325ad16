"""Writing files whole or not at all, hashes of files, and the folders of the user."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from faststyle.errors import OutputError

PROBE = bytes(4096)  # is written to try a place: an empty file fits on a full disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, or a file too large


def cache_folder() -> Path:
    """Return the folder of downloads: `FASTSTYLE_CACHE`, else the user's cache folder."""
    if given := os.environ.get("FASTSTYLE_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("faststyle", appauthor=False))


def data_folder() -> Path:
    """Return the folder of the user's own styles: `FASTSTYLE_DATA`, else the user's data folder."""
    if given := os.environ.get("FASTSTYLE_DATA"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("faststyle", appauthor=False))


def output_error(path: Path | str, error: OSError) -> OutputError:
    """Return the one-line error for a failed write to `path`, with the fix that fits its cause."""
    if error.errno in FULL:
        fix = "free some space or choose another place"
    elif isinstance(error, IsADirectoryError):
        fix = "a folder of that name is in the way"
    elif isinstance(error, FileExistsError | NotADirectoryError):
        fix = "a file stands where a folder is needed"
    elif error.errno == errno.EBADF:
        fix = "it is closed"
    else:
        fix = "choose a place that you may write to"
    return OutputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}; {fix}")


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, and rename it to `path` when the block ends well.

    When the block fails, the temporary file is removed. Parent folders are made. Raises:
    OutputError when the disk is full or the place cannot be written to.

    Example:
        >>> with writing("out.txt") as temporary:
        ...     temporary.write_text("whole or not at all")
    """
    path = Path(path)
    # It has the suffix of `path`, since some writers choose the format by it, and is in the same
    # folder, since a rename cannot go to another disk. Each thread has its own.
    mine = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.stem}.{mine}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # The data must be on the disk before the rename. Otherwise a power cut leaves an empty file
        # under the final name.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone where all went well
            temporary.unlink()


def half_written(path: Path | str) -> list[Path]:
    """Return what killed processes left of a file beside it: see `writing`."""
    path = Path(path)
    pattern = re.compile(re.escape(f".{path.stem}.") + r"\d+(-\d+)?\.part" + re.escape(path.suffix))
    try:
        return [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]
    except OSError:  # no folder yet
        return []


def check_place(path: Path | str) -> None:
    """Raise OutputError when `path` cannot be written. Nothing is left behind."""
    path = Path(path)
    try:
        if path.is_dir():
            raise OutputError(f"{path}: a folder, where a file is to be written")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(PROBE)  # permissions alone do not tell: a disk may be read-only, or full
    except OSError as error:
        raise output_error(path, error) from error


def check_free(path: Path | str, overwrite: bool) -> None:
    """Raise OutputError when there is a file of that name, and it may not be replaced."""
    if os.path.exists(path) and not overwrite:  # Path.exists raises for a name too long
        raise OutputError(f"`output` {path}: is there already; `overwrite` replaces it")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all. Raises: OutputError."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: Path | str) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
