"""A Hugging Face Hub on this machine, with one dataset, whose answers can be made to fail."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow
import pyarrow.parquet
from conftest import draw

NAME = "some/photos"
FILE = "data/train-00000-of-00001.parquet"
COMMIT = "a" * 40
COUNT = 128
FAULTS = ("error", "cut", "stall")
STALL = 15.0  # seconds; clients give up after 10


def photos() -> bytes:
    """Return a parquet file of photos."""
    rows = []
    for i in range(COUNT):
        file = io.BytesIO()
        draw(i, 40, 48).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": f"{i}.png"})
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), out, row_group_size=16)
    return out.getvalue()


class Hub(http.server.ThreadingHTTPServer):
    """The server. Of the next answers with photos, `faults` fail in the ways that it names."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = photos()
        self.faults: list[str] = []
        self.failed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    """The parts of the Hub's API that `datasets` asks for."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        content = self.server.content
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            folder = path.partition("/tree/")[2].partition("/")[2]
            found = {"type": "file", "path": FILE, "size": len(content), "oid": "b" * 40}
            if folder != os.path.dirname(FILE):
                found = {"type": "directory", "path": "data", "size": 0, "oid": "c" * 40}
            self.say(json.dumps([found]).encode())
        elif path.startswith(f"/api/datasets/{NAME}"):
            about = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": FILE}], "tags": []}
            self.say(json.dumps(about).encode())
        elif re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/{FILE}", path):
            self.give(content)
        else:
            self.say(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

    def give(self, content: bytes) -> None:
        """Answer with a part of the photos, or fail."""
        first, last = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first = int(asked[1])
            last = min(last, int(asked[2] or last))
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        part = content[first : last + 1]
        code = 206 if asked else 200
        if self.command == "GET" and self.server.faults:
            self.server.failed += 1
            self.fail(self.server.faults.pop(0), part, code, headers)
        else:
            self.say(part, code, headers)

    def fail(self, fault: str, part: bytes, code: int, headers: dict[str, str]) -> None:
        if fault == "error":
            self.say(b"out of order", 500)
            return
        self.say(part, code, headers, sent=len(part) // 2)
        time.sleep(STALL if fault == "stall" else 0)
        self.close_connection = True

    def say(
        self,
        body: bytes,
        code: int = 200,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        """Answer with a body, of which only `sent` bytes are sent."""
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
            self.wfile.flush()


@contextmanager
def open_hub() -> Iterator[Hub]:
    """Yield a running Hub."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


def draw_faults(rng: random.Random) -> list[str]:
    """Return the faults of the next few answers."""
    return [rng.choice(FAULTS) for _ in range(rng.randint(1, 3))]
