"""The settings of the service, and the error that becomes an answer of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import FaststyleError, ServerError

DEFAULT_PORT = 8000
ADDRESS = "127.0.0.1"


class RequestError(FaststyleError):
    """A request that cannot be answered with a picture; `status` is that of HTTP.

    `retry_after` is the number of seconds after which the client may try again.
    """

    def __init__(self, status: HTTPStatus, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class ServeOptions:
    """Where the service listens, how networks run, and the limits.

    `hosts` are more names of this machine that requests may ask for. `max_bytes` and `max_pixels`
    are those of a photo; `max_pixels` counts for the result too, and for what the network sees.
    `queue` is the number of requests that may be read, waited for and worked on at once.
    `max_batch` is the largest number of photos in one run of a network, `timeout` the seconds that
    a request may take. `styles` are kept loaded, at most; `warm` are loaded at the start,
    and converted for the fastest engine if they are not yet.

    Raises: ServerError for a limit that makes no sense.
    """

    address: str = ADDRESS
    port: int = DEFAULT_PORT
    hosts: Sequence[str] = ()
    engine: EngineOptions = AUTO
    max_bytes: int = 20 * 2**20
    max_pixels: int = 16_000_000
    queue: int = 64
    max_batch: int = 8
    timeout: float = 60.0
    styles: int = 4
    warm: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "queue", "max_batch", "styles"):
            if getattr(self, name) < 1:
                raise ServerError(f"`{name}` must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.timeout < float("inf"):
            raise ServerError(f"`timeout` must be above 0 seconds, got {self.timeout}")
        if not 0 <= self.port <= 65_535:
            raise ServerError(f"`port` must be 0 (any free one) to 65535, got {self.port}")
        if len(self.warm) > self.styles:
            raise ServerError(
                f"`warm`: {len(self.warm)} styles, and {self.styles} are kept loaded; "
                "use a larger `styles`"
            )
