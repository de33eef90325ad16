"""Measured speed of photos: read, decoded, cropped and resized, on one core, from each source."""

from __future__ import annotations

import functools
import http.server
import io
import multiprocessing
import re
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from faststyle.devices import peak_memory
from faststyle.errors import PhotosError
from faststyle.training.leaves import dead_leaves
from faststyle.training.photos import NumberedPhotos, open_photos
from faststyle.training.remote import public

SHARDS = 4  # tars and parquet files of a set that is made
GROUP = 50  # photos of a row group
DIFFERENT = 50  # pictures that are drawn for a set; drawing one takes longer than decoding ten
WARM_UP = 16  # photos before the clock counts


@dataclass(frozen=True)
class PhotosRow:
    """The speed of one source, on one core.

    `photos_per_cpu_second` counts the time that the core worked on them; `photos_per_second` counts
    waiting too, for a disk, a network, or other programs. `open_seconds` were worked to open the
    source. `peak_rss_mb` is the peak memory of a process that read this source only, in MiB.
    """

    source: str
    photos: int
    photos_per_cpu_second: float
    photos_per_second: float
    open_seconds: float
    peak_rss_mb: int


def bench_photos(sources: Sequence[str], size: int, count: int) -> list[PhotosRow]:
    """Return the speed of each source, for `count` photos cropped to `size` pixels.

    Each source is read in a process of its own, on one thread. Raises: PhotosError.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for source in sources:
        with context.Pool(1) as pool:
            rows.append(pool.apply(_measure, (source, size, count)))
    return rows


def _measure(source: str, size: int, count: int) -> PhotosRow:
    torch.set_num_threads(1)
    began = time.process_time()
    photos = NumberedPhotos(open_photos(source, 0), size, 0)
    opened = time.process_time() - began
    for number in range(WARM_UP):
        _check(photos[number]["failure"])
    began = time.monotonic()
    worked = time.process_time()
    for number in range(WARM_UP, WARM_UP + count):
        _check(photos[number]["failure"])
    worked = time.process_time() - worked
    seconds = time.monotonic() - began
    memory = peak_memory() >> 20
    return PhotosRow(public(source), count, count / worked, count / seconds, opened, memory)


def _check(failure: str | None) -> None:
    if failure:
        raise PhotosError(failure)


def make_photos(folder: Path, count: int, height: int = 480, width: int = 640) -> None:
    """Write JPEG files to `folder`/pictures, and the same in tars and in parquet files.

    They are dead leaves; of a large set, each picture is there several times.
    """
    pictures = []
    for i in range(min(count, DIFFERENT)):
        leaves = Image.fromarray(dead_leaves(np.random.default_rng(i), max(height, width)))
        out = io.BytesIO()
        leaves.crop((0, 0, width, height)).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    files = [(f"{i:06d}.jpg", pictures[i % len(pictures)]) for i in range(count)]
    for name in ("pictures", "tars", "parquet"):
        (folder / name).mkdir()
    for name, data in files:
        (folder / "pictures" / name).write_bytes(data)
    for shard in range(SHARDS):
        mine = files[shard::SHARDS]
        write_tar(folder / "tars" / f"photos-{shard}.tar", mine)
        table = pyarrow.table({"image": [{"bytes": d, "path": name} for name, d in mine]})
        path = folder / "parquet" / f"photos-{shard}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=GROUP)


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write files, each a name and its bytes, to a tar."""
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def made_sources(folder: Path, url: str) -> list[str]:
    """Return the sources of `make_photos`: on the disk, and on the server of the folder."""
    last = SHARDS - 1
    return [
        str(folder / "pictures"),
        str(folder / "tars"),
        str(folder / "parquet"),
        f"{url}/tars/photos-{{0..{last}}}.tar",
        f"{url}/parquet/photos-{{0..{last}}}.parquet",
    ]


class FolderAnswer(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of a folder, whole or in parts (Range requests)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer with a file, or with the part of it that is asked for."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(size - 1, int(asked[2])) if asked and asked[2] else size - 1
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.give(file, last - first + 1)

    def give(self, file: Any, count: int) -> None:
        """Send bytes of a file, until the other side has gone."""
        try:
            while count > 0:
                part = file.read(min(count, 2**18))
                self.wfile.write(part)
                count -= len(part)
        except OSError:
            self.close_connection = True


@contextmanager
def made_and_served(count: int) -> Iterator[list[str]]:
    """Yield sources of so many photos that are made for it, on the disk and on a server."""
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), count)
        with served(Path(folder)) as url:
            yield made_sources(Path(folder), url)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yield the URL. Sources are read in another process."""
    answer = functools.partial(FolderAnswer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
