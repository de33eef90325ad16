"""Data sets in and out: parquet shards, or a data set of the Hub, with the pictures repainted.

A shard is read and written in small batches of rows. All columns but that of the pictures are kept.
Each output is one file, written whole or not at all, so a run that was stopped goes on at the first
shard that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faststyle.errors import FaststyleError, ImageError, Interrupted, OutputError, one_line
from faststyle.files import half_written, writing
from faststyle.images import output_format
from faststyle.stylize.batch import Notes, Report, paint_file
from faststyle.stylize.shards import Batches, Shard
from faststyle.stylize.stylizer import PLAIN, Look, Stylizer

GROUP_ROWS = 100  # rows of a group that is written, or fewer if they are large
GROUP_BYTES = 32 << 20
META = b"faststyle"  # the key of our metadata in a file
EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}


def run_shard(
    stylizer: Stylizer,
    shard: Shard,
    report: Report,
    notes: Notes,
    keep: bool,
    size: int | None = None,
    look: Look = PLAIN,
    keep_metadata: bool = False,
    *,
    format: str | None = None,
    settings: str = "",
) -> None:
    """Write one shard with its pictures repainted, and add what became of it to `report`.

    A picture that cannot be painted becomes null, and is listed as failed; its row stays. With
    `keep`, a file that is there stays, and the failures that it tells of are listed again.
    `settings` changes with the pictures that are painted. Raises: OutputError, Interrupted; and
    OutputError for a file that is there and was painted with other settings.
    """
    if keep and shard.target.exists():
        _keep(shard, report, settings)
        return
    painter = _Painter(stylizer, shard, notes, size, look, keep_metadata, format)
    try:
        schema, batches = _opened(shard)
        at = schema.get_field_index(shard.column)
        schema = schema.set(at, schema.field(at).with_nullable(True))  # null is one that failed
        with writing(shard.target) as temporary:
            _write(temporary, schema, painter.paint_all(batches, schema), painter, settings)
    except ImageError as error:
        report.failed.append((shard.name, str(error).removeprefix(one_line(f"{shard.name}: "))))
        return
    _remove_leftovers(shard.target)
    report.written.append(str(shard.target))
    report.pictures += painter.painted
    report.failed += _named(shard, painter.failed)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left of a shard: only one process at a time writes it."""
    for file in half_written(target):
        file.unlink(missing_ok=True)


class _Painter:
    """Repaints the column of pictures of a shard, batch by batch."""

    def __init__(
        self,
        stylizer: Stylizer,
        shard: Shard,
        notes: Notes,
        size: int | None,
        look: Look,
        keep_metadata: bool,
        format: str | None,
    ) -> None:
        self.stylizer = stylizer
        self.shard = shard
        self.notes = notes
        self.options = (size, look, keep_metadata)
        self.format = output_format(f"x.{format}") if format else None
        self.row = shard.first_row
        self.painted = 0
        self.failed: list[tuple[int, str]] = []  # row, and reason

    def paint_all(self, batches: Batches, schema: pa.Schema) -> Batches:
        """Yield the batches with their pictures repainted. Raises: ImageError for damaged ones."""
        at = schema.get_field_index(self.shard.column)
        kind = schema.field(at).type
        for batch in _read(batches, self.shard.name):
            values = [self._paint(value.as_py()) for value in batch.column(at)]
            yield batch.set_column(at, schema.field(at), pa.array(values, kind))

    def _paint(self, value: Any) -> Any:
        """Return the repainted picture of a row in the form that it was stored in, or None."""
        row = self.row
        self.row += 1
        path = value.get("path") if isinstance(value, dict) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        name = f"{self.shard.name}, row {row}"
        try:
            if not data:
                raise ImageError(_without_bytes(path))
            format = self.format or _format_of(data)
            painted, notes = paint_file(self.stylizer, data, name, format, *self.options)
        except (OutputError, Interrupted):
            raise
        except FaststyleError as error:
            self.failed.append((row, str(error).removeprefix(one_line(f"{name}: "))))
            return None
        self.painted += 1
        self.notes.add(notes, name)
        if not isinstance(value, dict):
            return painted
        if path:
            value["path"] = str(Path(path).with_suffix(EXTENSIONS[format]))
        return {**value, "bytes": painted}


def _write(
    file: Path, schema: pa.Schema, batches: Batches, painter: _Painter, settings: str
) -> None:
    """Write batches to a parquet file, in groups of bounded size."""
    # Pictures in a dictionary could not be read one by one.
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        group: list[pa.RecordBatch] = []
        for batch in batches:
            group.append(batch)
            rows = sum(part.num_rows for part in group)
            if rows >= GROUP_ROWS or sum(part.nbytes for part in group) >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))
        told = {"settings": settings, "failed": painter.failed, "pictures": painter.painted}
        writer.add_key_value_metadata({META: json.dumps(told).encode()})


def _keep(shard: Shard, report: Report, settings: str) -> None:
    """Add a shard that is there to the report. Raises: OutputError if it is no such shard."""
    try:
        told = json.loads((pq.read_metadata(shard.target).metadata or {})[META])
    except (KeyError, ValueError, OSError, pa.ArrowException):
        raise OutputError(
            f"{shard.target}: not written by faststyle; choose another folder, or use `overwrite`"
        ) from None
    if told["settings"] != settings:
        raise OutputError(
            f"{shard.target}: painted with another style or other options; "
            "choose another folder, or use `overwrite`"
        )
    report.kept.append(str(shard.target))
    report.pictures_kept += told["pictures"]
    report.failed += _named(shard, told["failed"])


def _named(shard: Shard, failed: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
    return [(f"{shard.name}, row {row}", reason) for row, reason in failed]


def _opened(shard: Shard) -> tuple[pa.Schema, Batches]:
    """Return schema and rows of a shard. Raises: ImageError."""
    try:
        return shard.read()
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise _damaged(shard.name, error) from error


def _read(batches: Batches, name: str) -> Batches:
    """Yield batches. Raises: ImageError where they are damaged, or their source is cut off."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise _damaged(name, error) from error
        yield batch


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name}: cannot be read as a data set ({error})")


def _without_bytes(path: str | None) -> str:
    """Return why a row has no picture."""
    if path:
        return f"holds the path {path} only; write the data set anew with its pictures in it"
    return "holds no picture"


def _format_of(data: bytes) -> str:
    """Return the format to write a picture in: its own where it is JPEG or WebP, else PNG."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "PNG"
