"""An MJPEG stream over HTTP, for browsers and players.

A web page of a stranger must not see the camera. So the stream is on this machine alone unless the
address says otherwise, and a request must name an address of this machine: a page that points its
own name at 127.0.0.1 (DNS rebinding) is refused.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Collection, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from faststyle.errors import OutputError
from faststyle.hosts import LOCAL_NAMES, host_name, is_loopback
from faststyle.video.frames import Rgb
from faststyle.video.options import VideoError

DEFAULT_PORT = 8080
JPEG_QUALITY = 85
BOUNDARY = "frame"  # the line between two pictures of an MJPEG stream
MAX_VIEWERS = 8  # connections at once; each is a thread
TIMEOUT = 10.0  # seconds in which a viewer must send its request, or take a picture
REPEAT = 5.0  # seconds after which a picture is sent again, so that viewers who left are noticed


class MjpegOutput:
    """An MJPEG stream over HTTP, for browsers and players.

    `url` names the address that is listened on; port 0 means any free port. `names` are more names
    of this machine that viewers may ask for. `port` is the port that is served, and `address` the
    URL to open.

    Raises: VideoError for a URL that makes no sense, OutputError for an address or a port that
    cannot be had.
    """

    def __init__(self, url: str, names: Collection[str] = ()) -> None:
        host, port = _parse(url)
        self._changed = threading.Condition()
        self._jpeg = b""
        self._number = 0  # of the newest picture, counted from 1
        self._closed = False
        self.allowed = {*LOCAL_NAMES, host, *(name.lower().rstrip(".") for name in names)}
        try:
            self._server = _Server(self, host, port)
        except OSError as error:
            raise OutputError(f"`output` {url}: {error.strerror or error}") from error
        self.port = int(self._server.server_address[1])
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self.is_public = not is_loopback(host)
        threading.Thread(target=self._server.serve_forever, name="mjpeg", daemon=True).start()

    def show(self, rgb: Rgb, seconds: float) -> None:
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=JPEG_QUALITY)
        with self._changed:
            self._jpeg = file.getvalue()
            self._number += 1
            self._changed.notify_all()

    def pictures(self) -> Iterator[bytes]:
        """Yield the newest picture each time there is one, until the stream is closed.

        Where there is no new one for some seconds, the last one comes again.
        """
        seen = 0
        while True:
            with self._changed:
                if not self._closed and self._number == seen:
                    self._changed.wait(REPEAT)
                if self._closed:
                    return
                jpeg = self._jpeg
                seen = self._number
            if jpeg:
                yield jpeg

    def pressed(self) -> str:
        return ""

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """The server of a stream: a thread for each viewer, and no more than `MAX_VIEWERS`."""

    # A viewer that does not disconnect must not keep the program from ending.
    daemon_threads = True

    def __init__(self, stream: MjpegOutput, host: str, port: int) -> None:
        self.stream = stream
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MAX_VIEWERS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; refuse it when there are too many."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread can be started
                self._places.release()
                raise
            return
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(b"HTTP/1.0 503 Too many viewers\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a viewer that breaks off is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    """Answers a viewer: with the stream, or with an error."""

    server: _Server
    timeout = TIMEOUT  # of each read and write of the socket

    def do_GET(self) -> None:
        if not self._is_for_us():
            self.send_error(HTTPStatus.FORBIDDEN, "This name is not served; see --host")
            return
        if urlsplit(self.path).path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with contextlib.suppress(OSError):  # the viewer went away, or stalled
            for jpeg in self.server.stream.pictures():
                self.wfile.write(_multipart(jpeg))

    def _is_for_us(self) -> bool:
        """Return whether the request names an address or an allowed name of this machine."""
        name = host_name(self.headers.get("Host", ""))
        # The address that the viewer reached us at, where the server listens on all of them.
        own = str(self.connection.getsockname()[0])
        return name in self.server.stream.allowed or name == own

    def log_message(self, *_: Any) -> None:  # the default prints each request
        pass


def _parse(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL. Raises: VideoError."""
    hint = f"use http://127.0.0.1:{DEFAULT_PORT}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise VideoError(f"`output` {url}: {error}; {hint}") from None
    if not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise VideoError(f"`output` {url}: an address and a port are expected; {hint}")
    return parts.hostname, DEFAULT_PORT if port is None else port


def _multipart(jpeg: bytes) -> bytes:
    """Return a picture as a part of a multipart response."""
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"
