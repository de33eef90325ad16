"""A web server of a folder on this machine, whose answers can be made to fail."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faststyle.bench.photos import FolderAnswer


class Web(http.server.ThreadingHTTPServer):
    """The server. `fault` is the one that answers have from now on, "" for none.

    "error" is a status of 500, "cut" ends the connection after a part; `faults` is how many answers
    fail before all is well again. With `parts` false it sends whole files only.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Answer, directory=str(folder)))
        self.fault = ""
        self.faults = 10**9
        self.parts = True
        self.sent = 0
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the other side closed."""


class Answer(FolderAnswer):
    server: Web

    def do_GET(self) -> None:  # noqa: N802
        self.server.asked += 1
        if not self.server.parts and self.headers.get("Range"):
            del self.headers["Range"]
        if self.server.fault == "error" and self.server.faults > 0:
            self.server.faults -= 1
            self.send_error(500)
            return
        super().do_GET()

    def give(self, file: Any, count: int) -> None:
        if self.server.fault == "cut" and self.server.faults > 0 and count > 4096:
            self.server.faults -= 1
            super().give(file, count // 2)
            self.close_connection = True
            return
        self.server.sent += count
        super().give(file, count)


@contextmanager
def open_web(folder: Path) -> Iterator[Web]:
    """Yield a running server of a folder."""
    with Web(folder) as web:
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield web
        finally:
            web.shutdown()
