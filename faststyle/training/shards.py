"""Photos in tars (as of WebDataset) and in parquet files: on this disk, or on web servers.

A tar on disk is indexed once, and a tar of a web server is read as a stream, in lanes. Of parquet
files, the row groups are read by number, wherever they are.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

import numpy as np
import pyarrow
import pyarrow.parquet

from faststyle.errors import PhotosError
from faststyle.images import READABLE
from faststyle.training.lanes import FEW, TRIED_NEAR, LanePhotos, Raw, draw_order, draw_row
from faststyle.training.remote import RemoteFile, is_url, public

TAR = ".tar"
PARQUET = ".parquet"
AT_ONCE = 16  # files that are asked for at the same time, when a run begins
NOT_KNOWN = "licence not known to faststyle"
TAR_BLOCK = 512  # bytes; a tar ends in two such blocks of zeros
MEMORY = 256 * 2**20  # bytes of row groups that a reader keeps at the most
LARGEST_GROUP = 512 * 2**20  # bytes of photos in a row group
MOST_LANES = 64
OPEN_FILES = 16  # parquet files that a reader keeps open

Found = TypeVar("Found")


@dataclass(frozen=True)
class Shards:
    """Tars or parquet files of one source, as `name` asks for them.

    `kind` is `TAR` or `PARQUET`. `column` is the one that holds the photos, where it is given.
    """

    name: str
    kind: str
    paths: list[str]
    column: str | None = None


def find_shards(name: str) -> Shards | None:
    """Return the tars or parquet files that a name asks for; None where it asks for pictures.

    It is a file, a URL, a pattern of files ("photos/*.tar"), several of them in braces
    ("https://example.org/photos-{000..127}.tar"), or a folder that holds such files, and no
    pictures. ":COLUMN" may follow the name of parquet files. Raises: PhotosError.
    """
    with_column = re.fullmatch(r"(.*\.parquet):([^:/\\]+)", name, re.DOTALL)
    pattern = with_column[1] if with_column else name
    column = with_column[2] if with_column else None
    if os.path.isdir(pattern):
        return _of_folder(Path(pattern))
    paths = list(dict.fromkeys(path for one in expand_braces(pattern) for path in _matches(one)))
    kinds = {_suffix(path) for path in paths}
    if len(kinds) == 1 and kinds <= {TAR, PARQUET}:
        return Shards(name, kinds.pop(), paths, column)
    if paths == [name] and not is_url(name):
        return None
    wrong = next((path for path in paths if _suffix(path) not in (TAR, PARQUET)), "")
    if wrong:
        raise PhotosError(
            f"`photos`: {public(wrong)} is neither a {TAR} nor a {PARQUET} file; a folder of "
            "pictures is named as a folder"
        )
    raise PhotosError(f"`photos` {name}: tars and parquet files together; name one kind")


def expand_braces(pattern: str) -> list[str]:
    """Return the names of a pattern, as a shell does.

    Example:
        >>> expand_braces("{a,b}-{08..10}.tar")[:3]
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices = [_choices(part) for part in parts]
    if not any(len(choice) > 1 for choice in choices):
        return [pattern]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(part: str) -> list[str]:
    """Return the names of one part of a pattern: of "{000..127}", of "{a,b}", or itself."""
    span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if span:
        first, last = span.groups()
        width = len(first) if first.startswith("0") else 0
        return [str(n).zfill(width) for n in range(int(first), int(last) + 1)] or [part]
    if part.startswith("{") and "," in part:
        return part[1:-1].split(",")
    return [part]


def _matches(pattern: str) -> list[str]:
    """Return the files of one pattern without braces. Raises: PhotosError where there is none."""
    if is_url(pattern):
        parts = _split(pattern)
        if "@" in parts.netloc:
            raise PhotosError(
                f"`photos` {public(pattern)}: a user and a password in a URL are not sent; use a "
                "URL without them"
            )
        if "*" in parts.path:
            raise PhotosError(
                f"`photos` {public(pattern)}: web servers have no list of files; "
                "use braces, as in photos-{000..127}.tar"
            )
        return [pattern]
    if os.path.lexists(pattern) or not glob.has_magic(pattern):
        if _suffix(pattern) in (TAR, PARQUET) and not os.path.isfile(pattern):
            raise PhotosError(f"`photos`: there is no file {pattern}")
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise PhotosError(f"`photos`: no file matches {pattern}")
    return found


def cannot_list(error: OSError) -> None:
    """Raise PhotosError for a folder that `os.walk` cannot list, which it would leave out."""
    raise PhotosError(f"`photos`: {error.filename}: cannot be read ({error.strerror})")


def _of_folder(folder: Path) -> Shards | None:
    found: dict[str, list[str]] = {TAR: [], PARQUET: []}
    for root, folders, files in os.walk(folder, onerror=cannot_list):
        folders.sort()
        for file in sorted(files):
            suffix = _suffix(file)
            if file.startswith("."):
                continue
            if suffix in READABLE:
                return None
            if suffix in found:
                found[suffix].append(os.path.join(root, file))
    if all(found.values()):
        raise PhotosError(
            f"`photos` {folder}: tars and parquet files together; name one kind, as in "
            f"{folder / '*.tar'}"
        )
    kind = next((kind for kind, paths in found.items() if paths), None)
    return None if kind is None else Shards(str(folder), kind, sorted(found[kind]))


def _suffix(path: str) -> str:
    return PurePosixPath(_split(path).path if is_url(path) else path).suffix.lower()


def _split(url: str) -> SplitResult:
    """Return the parts of a URL. Raises: PhotosError for one that is none."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise PhotosError(f"`photos` {public(url)}: not a valid URL ({error})") from error


class TarPhotos:
    """The pictures of tars on this disk, each once in a random order, then again in another."""

    license = NOT_KNOWN

    def __init__(self, shards: Shards, seed: int) -> None:
        self.paths = shards.paths
        self.seed = seed
        names: list[str] = []
        places = array("q")  # of each photo: number of the tar, first byte, bytes
        for number, path in enumerate(self.paths):
            with _opened(path) as file:
                for member in read_tar(file, path):
                    names.append(member.name)
                    places.extend((number, member.offset_data, member.size))
        # Arrow and numpy: a list of a million names would be copied into each worker.
        self.names = pyarrow.array(names, pyarrow.string())
        self.places = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)
        self.description = _described(shards, f"{len(names)} photos of the tars")
        self.strong = len(names) < FEW

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        """Return the name and the undecoded photo of a sample number. Raises: PhotosError."""
        row = draw_row(self.seed, number, attempt, len(self.names))
        tar, first, size = self.places[row].tolist()
        path = self.paths[tar]
        with _opened(path) as file:
            file.seek(first)
            data = file.read(size)
        if len(data) < size:
            raise PhotosError(f"`photos`: {path} became shorter while it was read")
        return f"{path}/{self.names[row]}", data


class TarStream(LanePhotos):
    """The pictures of tars of a web server, read as a stream in lanes.

    All tars are asked for when it is opened, and the first one must hold a picture.
    """

    license = NOT_KNOWN

    def __init__(self, shards: Shards, seed: int) -> None:
        super().__init__(public(shards.name), seed, len(shards.paths))
        self.paths = shards.paths
        _for_each(self.paths, lambda path: RemoteFile(path).find_size())
        next(self.read(0))
        self.description = _described(shards, "the tars")

    def read(self, shard: int) -> Iterator[tuple[str, Raw]]:
        """Return the names and the undecoded photos of a tar. Raises: PhotosError."""
        return _stream_tar(self.paths[shard])


def _stream_tar(path: str) -> Iterator[tuple[str, Raw]]:
    with RemoteFile(path) as file:
        for member in read_tar(file, path):
            file.seek(member.offset_data)
            yield f"{public(path)}/{member.name}", file.read(member.size)


def read_tar(file: BinaryIO | RemoteFile, path: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar that are pictures.

    Raises: PhotosError where there is none, or where the tar is damaged or cut off.
    """
    found = False
    others: Counter[str] = Counter()
    damaged = f"`photos`: {public(path)} is no whole tar: damaged, or cut off"
    try:
        watched = _Watched(file)
        with tarfile.open(fileobj=cast(Any, watched), mode="r:") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"] = []  # tarfile would keep them all
                suffix = PurePosixPath(member.name).suffix.lower()
                hidden = PurePosixPath(member.name).name.startswith(".")
                if member.isreg() and suffix in READABLE and not hidden:
                    found = True
                    yield member
                elif member.isreg():
                    others[suffix or "no suffix"] += 1
            # tarfile ends without an error where a header is damaged, and at the end of the file.
            if watched.last != bytes(TAR_BLOCK):
                raise PhotosError(f"{damaged} after {tar.offset:,} bytes")
    except tarfile.TarError as error:
        raise PhotosError(f"{damaged} ({error})") from error
    if not found:
        held = ", ".join(name for name, _ in others.most_common(4)) or "nothing"
        raise PhotosError(f"`photos`: {public(path)} holds no picture, but {held}")


class _Watched:
    """A file that remembers the last bytes that were read: of a whole tar a block of zeros."""

    def __init__(self, file: Any) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self.file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        self.last = self.file.read(size)
        return self.last


class ParquetPhotos:
    """The pictures in a column of parquet files, read by row groups.

    In each epoch the row groups are put in a random order and dealt to lanes, each an equal part of
    the rows, and the rows of a group are shuffled. Sample n comes from lane n mod lanes: every
    picture is seen once before any is seen again, and any sample can be found at once.
    """

    license = NOT_KNOWN

    def __init__(self, shards: Shards, seed: int) -> None:
        self.paths = shards.paths
        self.seed = seed
        first = self._open(self.paths[0])
        self.column, self.leaf = _find_column(first.schema_arrow, shards)
        first.close()
        parts = _for_each(self.paths, self._groups)
        groups = [(file, *group) for file, part in enumerate(parts) for group in part]
        if not groups:
            raise PhotosError(f"`photos`: {public(shards.name)} holds no rows")
        self.files = np.array([file for file, _, _, _ in groups], dtype=np.int64)
        self.numbers = np.array([number for _, number, _, _ in groups], dtype=np.int64)
        self.counts = np.array([rows for _, _, rows, _ in groups], dtype=np.int64)
        self.rows = int(self.counts.sum())
        largest = max(size for _, _, _, size in groups)
        self.lanes = 1
        while self.lanes < MOST_LANES and 2 * self.lanes * largest <= MEMORY:
            self.lanes *= 2
        self.description = _described(shards, f"{self.rows} photos of the parquet files")
        self.strong = self.rows < FEW
        self.epoch = (-1, self.counts, self.counts)
        self.process = os.getpid()
        self.open: OrderedDict[int, Any] = OrderedDict()
        self.kept: OrderedDict[int, Any] = OrderedDict()

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        """Return the name and the undecoded photo of a sample number. Raises: PhotosError."""
        epoch, place = divmod(number, self.rows)
        position, lane = divmod(place, self.lanes)
        # The lanes before this one hold the rows of all smaller remainders.
        each, more = divmod(self.rows, self.lanes)
        position += lane * each + min(lane, more)
        order, ends = self._order(epoch)
        turn = bisect_right(ends, position)
        group = int(order[turn])
        count = int(self.counts[group])
        if attempt >= min(count, TRIED_NEAR):  # they may all be bad: look elsewhere
            return self.photo(number + attempt * (self.lanes + 1), 0)
        within = position - int(ends[turn]) + count
        shuffled = draw_order(self.seed, epoch * len(self.counts) + group, count)
        row = int(shuffled[(within + attempt) % count])
        data = self._group(group)[row].as_py()
        path = public(self.paths[self.files[group]])
        return f"{path}, row {row} of group {self.numbers[group]}", data or b""

    def _order(self, epoch: int) -> tuple[Any, Any]:
        """Return the order of the row groups in an epoch, and the rows up to the end of each."""
        if self.epoch[0] != epoch:
            # A seed of its own: of one group, `draw_order` gives the order of its rows.
            rng = np.random.default_rng((self.seed, epoch, 5))
            order = rng.permutation(len(self.counts))
            self.epoch = (epoch, order, self.counts[order].cumsum())
        return self.epoch[1:]

    def _group(self, group: int) -> Any:
        """Return the pictures of a row group, undecoded."""
        if self.process != os.getpid():  # connections are not shared with a loader's workers
            self.process = os.getpid()
            self.open.clear()
            self.kept.clear()
        if group not in self.kept:
            number = int(self.files[group])
            file = self.open.pop(number, None) or self._open(self.paths[number])
            self.open[number] = file
            with _parquet_errors(self.paths[number]):
                table = file.read_row_group(
                    int(self.numbers[group]), columns=[self.leaf], use_threads=False
                )
            column = table.column(0)
            self.kept[group] = column.flatten()[0] if "." in self.leaf else column
            if len(self.open) > OPEN_FILES:
                self.open.popitem(last=False)[1].close(force=True)
            while len(self.kept) > self.lanes:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        return self.kept[group]

    def _open(self, path: str) -> Any:
        source = RemoteFile(path, parts=True) if is_url(path) else path
        with _parquet_errors(path):
            return pyarrow.parquet.ParquetFile(source, pre_buffer=False)

    def _groups(self, path: str) -> list[tuple[int, int, int]]:
        """Return the number, the rows and the bytes of each row group of a file."""
        file = self._open(path)
        about = file.metadata
        leaves = [about.schema.column(i).path for i in range(about.num_columns)]
        names = file.schema_arrow.names
        file.close(force=True)
        if self.leaf not in leaves:
            raise PhotosError(
                f"`photos`: {public(path)} has no column {self.column!r} of pictures; it has "
                f"{', '.join(names)}"
            )
        groups = []
        for i in range(about.num_row_groups):
            rows = about.row_group(i)
            size = rows.column(leaves.index(self.leaf)).total_uncompressed_size
            if size > LARGEST_GROUP:
                raise PhotosError(
                    f"`photos`: {public(path)} has a row group of {size / 1e6:,.0f} MB, which is "
                    "read at once; write it with smaller ones (pyarrow: row_group_size=100)"
                )
            if rows.num_rows:
                groups.append((i, rows.num_rows, size))
        return groups


def _find_column(schema: Any, shards: Shards) -> tuple[str, str]:
    """Return the column that holds pictures, and the path of its bytes. Raises: PhotosError.

    It is the one that is given, else the first of bytes with a path (as `datasets` writes them),
    else the only one of bytes.
    """
    leaves = {field.name: _leaf(field) for field in schema}
    path = public(shards.paths[0])
    if shards.column is not None:
        leaf = leaves.get(shards.column)
        if leaf is None:
            kind = f"; it is {schema.field(shards.column).type}" if shards.column in leaves else ""
            raise PhotosError(
                f"`photos`: {path} has no column {shards.column!r} of pictures{kind}; it has "
                f"{', '.join(leaves)}"
            )
        return shards.column, leaf
    named = [name for name, leaf in leaves.items() if leaf and leaf != name]
    plain = [name for name, leaf in leaves.items() if leaf == name]
    if not named and len(plain) != 1:
        raise PhotosError(
            f"`photos`: {path}: which column holds the pictures? It has {', '.join(leaves)}; name "
            f"one of bytes, as in {Path(path).name}:{(plain or ['COLUMN'])[0]}"
        )
    column = (named or plain)[0]
    return column, str(leaves[column])


def _leaf(field: Any) -> str | None:
    """Return the path of the bytes of a column, None where it holds none."""
    if pyarrow.types.is_struct(field.type):
        inner = field.type.get_field_index("bytes")
        if inner < 0:
            return None
        leaf = _leaf(field.type.field(inner))
        return f"{field.name}.{leaf}" if leaf else None
    kinds = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    return str(field.name) if any(kind(field.type) for kind in kinds) else None


@contextmanager
def _parquet_errors(path: str) -> Iterator[None]:
    """Turn errors of reading a parquet file into a PhotosError of one line."""
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise PhotosError(
            f"`photos`: {public(path)} cannot be read as parquet; damaged, or cut off? ({reason})"
        ) from error


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file of this disk. Raises: PhotosError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise PhotosError(
            f"`photos`: {path} cannot be read ({(error.strerror or str(error)).lower()})"
        ) from error


def _for_each(paths: list[str], action: Callable[[str], Found]) -> list[Found]:
    """Return the results for all files, several at once where they are on web servers."""
    if not is_url(paths[0]):
        return [action(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(action, paths))


def _described(shards: Shards, what: str) -> str:
    """Return a line on a source, which a checkpoint may keep: names of files only."""
    name = public(shards.name)
    if is_url(name):
        name = f"{PurePosixPath(name).name} of {urlsplit(name).netloc}"
    else:
        name = Path(name).name
    return f"{what} {name} ({NOT_KNOWN})"
