"""Files of web servers, read from any place on, and read on after a connection that failed."""

from __future__ import annotations

import http.client
import io
import os
import re
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import faststyle
from faststyle.errors import PhotosError

RETRIES = 3
WAIT = 1.0  # seconds before the first retry; twice as long before each one after it
TIMEOUT = 30.0  # seconds without an answer
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers after which it is worth to ask again
NEAR = 2**18  # bytes that are read and dropped sooner than another request is made


class RemoteFile(io.RawIOBase):
    """A file of a web server, open for reading.

    It is read as a stream. With `parts` each read asks for its bytes alone, for files that are read
    here and there. Reads that fail are tried again. Of a server that sends no parts of files (Range
    requests), a stream can be read, and begins anew after a failure.

    Raises: PhotosError where the file is not there, or after the last try.

    Example:
        >>> tarfile.open(fileobj=RemoteFile("https://example.org/photos.tar"))
    """

    def __init__(self, url: str, parts: bool = False) -> None:
        self.url = url
        self.parts = parts
        self.size: int | None = None
        self._position = 0
        self._response: Any = None
        self._at = 0  # the position of the next byte of the response

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; nothing is asked for before the next read."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self.find_size()
        self._position = offset
        return offset

    def find_size(self) -> int:
        """Return the bytes of the file, which is asked for. Raises: PhotosError."""
        if self.size is None:
            self._try(lambda: self._open(0, 1))
            self._close()
        if self.size is None:
            raise PhotosError(f"`photos`: {public(self.url)}: the server does not tell its size")
        return self.size

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, fewer only at the end of the file. Raises: PhotosError."""
        if size is None or size < 0:
            size = self.find_size() - self._position
        if self.size is not None:
            size = min(size, self.size - self._position)
        if size <= 0:
            return b""
        found: bytes = self._try(lambda: self._read(size))
        self._position += len(found)
        return found

    def close(self) -> None:
        """Let the connection go."""
        self._close()
        super().close()

    def _try(self, action: Any) -> Any:
        for attempt in range(RETRIES + 1):
            try:
                return action()
            except (OSError, http.client.HTTPException) as error:
                self._close()
                code = None
                if isinstance(error, urllib.error.HTTPError):
                    error.close()  # it holds the connection
                    code = error.code
                if code in (404, 410):
                    raise PhotosError(
                        f"`photos`: {public(self.url)}: not there (the server says {code})"
                    ) from error
                if attempt == RETRIES or (code is not None and code not in AGAIN):
                    raise PhotosError(
                        f"`photos`: reading {public(self.url)} failed: {_reason(error)}"
                    ) from error
            except PhotosError:
                self._close()
                raise
            except ValueError as error:  # of letters or brackets that no URL has
                self._close()
                raise PhotosError(
                    f"`photos`: {public(self.url)}: not a valid URL ({error})"
                ) from error
            time.sleep(WAIT * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _read(self, size: int) -> bytes:
        if self._response is None or not 0 <= self._position - self._at <= NEAR:
            self._open(self._position, size if self.parts else None)
        self._drop(self._position - self._at)
        found = self._take(size)
        if self.parts:
            self._close()
        return found

    def _take(self, size: int) -> bytes:
        """Return the next bytes of the response, fewer only at the end of the file."""
        pieces = []
        while size > 0:
            piece = self._response.read(size)
            if not piece:
                if self.size is not None and self._at < self.size:
                    raise ConnectionError("the connection was cut off")
                break
            self._at += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _drop(self, size: int) -> None:
        while size > 0:
            piece = self._take(min(size, NEAR))
            if not piece:
                return
            size -= len(piece)

    def _open(self, first: int, count: int | None) -> None:
        """Ask for the bytes from `first` on, for `count` of them or for all."""
        self._close()
        last = "" if count is None else str(first + count - 1)
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": f"faststyle/{faststyle.__version__}",
        }
        if first or last:
            headers["Range"] = f"bytes={first}-{last}"
        request = urllib.request.Request(self.url, headers=headers)
        # `is_url` takes http and https only.
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # nosec B310
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        length = response.headers.get("Content-Length", "")
        size = int(part[2]) if part else int(length) if length.isdigit() else None
        self._response = response
        self._at = int(part[1]) if part else 0
        if self.size is not None and size != self.size:
            raise PhotosError(f"`photos`: {public(self.url)} changed while it was read")
        self.size = size
        if self.parts and size and not part:
            raise PhotosError(
                f"`photos`: {public(self.url)}: the server sends no parts of files (Range "
                "requests), which parquet needs; use tars, another server, or a copy on disk"
            )
        self._drop(first - self._at)

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def is_url(name: str) -> bool:
    """Return whether a name is that of a file of a web server."""
    return name.lower().startswith(("http://", "https://"))


def public(name: str) -> str:
    """Return a name without what may be secret in a URL: user, password, and query."""
    if not is_url(name):
        return name
    try:
        parts = urlsplit(name)
    except ValueError:  # it cannot be told apart what is secret in it
        return f"{name.partition('://')[0]}://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _reason(error: Exception) -> str:
    code = getattr(error, "code", None)
    if code is not None:
        return f"the server says {code}"
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__).lower()
