"""The shards of a data set: finding them, and reading their rows in small batches.

They are parquet files, or the shards of a data set that `datasets` can load from the Hub.
"""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faststyle.errors import ImageError, OutputError
from faststyle.files import check_place
from faststyle.images import WRITABLE
from faststyle.stylize.batch import PIPE, Found, find_files

PARQUET = frozenset({".parquet"})
HUB = "hf:"
ROWS = 1000  # of an output file, or one group of rows: what a kill costs at most
READ_AT_ONCE = 16  # rows
BUFFER = 1 << 20  # bytes of a column that are read at once, instead of all of its group

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True, kw_only=True)
class Shard(ABC):
    """A part of a data set that becomes one file, `target`; `name` is for messages.

    `column` holds the pictures, and `first_row` is the number of its first row in the source.
    """

    name: str
    target: Path
    column: str
    first_row: int = 0

    @abstractmethod
    def read(self) -> tuple[pa.Schema, Batches]:
        """Return the schema, and the rows in small batches. Raises: OSError and others."""


@dataclass(frozen=True, kw_only=True)
class ParquetShard(Shard):
    """Groups of rows of the parquet file `name`; all of them without `groups`."""

    groups: tuple[int, ...] | None = None

    def read(self) -> tuple[pa.Schema, Batches]:
        """Return the schema, and the rows in small batches."""
        file = pq.ParquetFile(self.name, pre_buffer=False, buffer_size=BUFFER)
        groups = None if self.groups is None else list(self.groups)
        return file.schema_arrow, file.iter_batches(READ_AT_ONCE, groups, use_threads=False)


@dataclass(frozen=True, kw_only=True)
class HubShard(Shard):
    """One shard of a data set that `datasets` can load, read as a stream."""

    path: str
    split: str
    index: int

    def read(self) -> tuple[pa.Schema, Batches]:
        """Return the schema, and the rows in small batches."""
        import datasets

        rows = _open_hub(self.path, self.split)
        feature = datasets.Image(decode=False)
        rows = rows.cast_column(self.column, feature).with_format("arrow")
        shard = rows.shard(num_shards=rows.num_shards, index=self.index)
        schema = rows.features.arrow_schema

        def batches() -> Batches:
            for table in shard.iter(batch_size=READ_AT_ONCE):
                table = table.cast(schema)
                at = table.schema.get_field_index(self.column)
                # Where the data set is a folder of files, the rows hold their paths only.
                stored = feature.embed_storage(table[self.column].combine_chunks())
                yield from table.set_column(at, schema.field(at), stored).to_batches()

        return schema, batches()


def wants_dataset(inputs: Sequence[str], output: str) -> bool:
    """Return whether inputs are a data set: hf:NAME, parquet files, or a folder or glob of them.

    Raises: ImageError where some are, and others are not.
    """
    kinds = [_is_dataset(item, output) for item in inputs]
    if any(kinds) and not all(kinds):
        other = inputs[kinds.index(False)]
        raise ImageError(
            f"{other}: no data set, as the other inputs are; give it a command of its own"
        )
    return any(kinds)


def plan_shards(inputs: Sequence[str], output: str, column: str | None = None) -> list[Shard]:
    """Return the shards of data sets, each with its file in the folder `output`.

    A file becomes one shard, or one for each 1,000 rows or more: whole groups of rows. So it does
    not depend on the number of processes. `column` names that of the pictures where it cannot be
    told. Raises: ImageError; OutputError.
    """
    if output == PIPE or Path(output).suffix.lower() in PARQUET | set(WRITABLE):
        raise OutputError(f"`output` {output}: a data set needs a folder, not a file")
    place = Path(output)
    shards: list[Shard] = []
    for item in inputs:
        if item.startswith(HUB):
            shards += _hub_shards(item, place, column)
        else:
            for file, below in dict.fromkeys(find_files(item, place.resolve(), PARQUET)):
                assert file is not None
                shards += _file_shards(file, place / below, column)
    _check_targets(shards)
    return shards


def _is_dataset(item: str, output: str) -> bool:
    if item.startswith(HUB):
        return True
    path = Path(item)
    # Unlike is_dir and exists, they take names that are too long.
    if os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(item)):
        place = Path(output).resolve()
        shards: list[Found] = find_files(item, place, PARQUET)
        if shards and find_files(item, place):
            raise ImageError(
                f"{item}: pictures and parquet files; name one kind, such as {item}/*.parquet"
            )
        return bool(shards)
    return path.suffix.lower() in PARQUET


def _file_shards(file: Path, target: Path, column: str | None) -> Sequence[Shard]:
    """Return the shards of a parquet file. Raises: ImageError for one without pictures."""
    whole = ParquetShard(name=str(file), target=target, column=column or "")
    try:
        about = pq.ParquetFile(file)
    except (OSError, pa.ArrowException):
        return [whole]  # the process that gets it reports why it cannot be read
    with about:
        column = find_column(about.schema_arrow, str(file), column)
        sizes = [about.metadata.row_group(i).num_rows for i in range(about.num_row_groups)]
    parts = _split(sizes)
    names = [target]
    if len(parts) > 1:
        end = f"of-{len(parts):05d}.parquet"
        names = [target.with_name(f"{target.stem}-{i:05d}-{end}") for i in range(len(parts))]
    return [
        replace(
            whole,
            target=name,
            column=column,
            first_row=sum(sizes[: groups[0]]),
            groups=tuple(groups),
        )
        for name, groups in zip(names, parts, strict=True)
    ]


def _split(sizes: Sequence[int]) -> list[range]:
    """Return the groups of rows of each output, for groups of these sizes: 1,000 rows or more."""
    parts = []
    first = 0
    for i in range(len(sizes)):
        if sum(sizes[first : i + 1]) >= ROWS or i == len(sizes) - 1:
            parts.append(range(first, i + 1))
            first = i + 1
    return parts or [range(0)]


def find_column(schema: pa.Schema, name: str, column: str | None = None) -> str:
    """Return the column of pictures: the one asked for, else the only one that may hold some.

    Raises: ImageError.
    """
    if column is not None:
        if column not in schema.names:
            known = ", ".join(schema.names)
            raise ImageError(f"{name}: has no column {column!r}; it has {known}")
        if not _holds_files(schema.field(column).type):
            raise ImageError(
                f"{name}: the column {column!r} is of type {schema.field(column).type}; "
                "pictures are stored as bytes, or as struct<bytes, path>"
            )
        return column
    structs = [f.name for f in schema if pa.types.is_struct(f.type) and _holds_files(f.type)]
    found = structs or [f.name for f in schema if _holds_files(f.type)]
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise ImageError(
            f"{name}: no column of pictures among {', '.join(schema.names)}; "
            "they are stored as bytes, or as struct<bytes, path>"
        )
    raise ImageError(
        f"{name}: several columns of pictures; choose `column` {' or `column` '.join(found)}"
    )


def _holds_files(kind: pa.DataType) -> bool:
    """Return whether values of a type may be image files."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_files(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _hub_shards(item: str, place: Path, column: str | None) -> Sequence[Shard]:
    """Return the shards of "hf:NAME[:SPLIT[:COLUMN]]". Raises: ImageError."""
    path, _, rest = item.removeprefix(HUB).partition(":")
    split, _, named = rest.partition(":")
    split = split or "train"
    rows = _open_hub(path, split)
    column = find_column(rows.features.arrow_schema, item, named or column)
    count = int(rows.num_shards)
    stem = f"{Path(path).name}-{split}"
    return [
        HubShard(
            name=f"{item}, shard {i}",
            target=place / f"{stem}-{i:05d}-of-{count:05d}.parquet",
            column=column,
            path=path,
            split=split,
            index=i,
        )
        for i in range(count)
    ]


def _open_hub(path: str, split: str) -> Any:
    """Return a data set as a stream, with its columns known. Raises: ImageError."""
    import datasets
    import huggingface_hub

    # It reports each of its retries; the last word is ours.
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        # The user names the data set, and datasets 4 runs no code of it: no revision is pinned.
        rows = datasets.load_dataset(path, split=split, streaming=True)  # nosec B615
        if rows.features is None:
            rows = rows._resolve_features()
    except Exception as error:  # a zoo: not found, no network, no access, unknown split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(
            f"hf:{path}: cannot open the data set, split {split!r} ({reason}); "
            "without a network, name parquet files of this machine"
        ) from error
    return rows


def _check_targets(shards: Sequence[Shard]) -> None:
    """Raise OutputError for shards that would share a file, or replace an input."""
    seen: dict[Path, str] = {}
    inputs = {Path(shard.name).resolve() for shard in shards}
    for shard in shards:
        if shard.target.resolve() in inputs:
            raise OutputError(f"`output` {shard.target}: the input itself; choose another folder")
        if shard.target in seen:
            raise OutputError(
                f"{seen[shard.target]} and {shard.name} would both be written to {shard.target}; "
                "rename one"
            )
        seen[shard.target] = shard.name
    for folder in {shard.target.parent for shard in shards}:
        check_place(folder / "x.parquet")
