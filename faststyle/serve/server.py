"""Listen, serve, and stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

from faststyle.errors import ServerError
from faststyle.extras import require
from faststyle.hosts import is_loopback, is_unspecified
from faststyle.serve.app import PACKAGES, build_app
from faststyle.serve.options import ServeOptions
from faststyle.serve.service import Service
from faststyle.signals import Stop, noted_signals

CONNECTIONS = 1024  # at once; clients that only connect and stay must not take all files
SPARE = 5.0  # seconds beyond the time of a request, at the end: its answer must still be sent


def run_server(
    options: ServeOptions,
    announce: Callable[[str], None] = lambda _: None,
    listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM; then finish the requests in flight, and refuse new ones.

    `announce` is called with lines about the work, `listening` with the address once requests are
    taken.

    Raises: DeviceError without the extra; ServerError for an address or port that cannot be had;
    RequestError for a style of `options.warm` that cannot be loaded.
    """
    require(*PACKAGES, extra="serve")
    for name in options.hosts:
        if is_unspecified(name):
            raise ServerError(f"`host` {name}: names of this machine only; use `address` {name}")
    with noted_signals() as stop, bound_socket(options) as listener:
        service = Service(options, announce)
        try:
            service.start()
            serve_until(stop, listener, service, listening)
        finally:
            service.close()


def serve_until(
    stop: Stop, listener: socket.socket, service: Service, listening: Callable[[str], None]
) -> None:
    """Serve on a socket until a signal was noted; then finish the requests in flight."""
    uvicorn = require("uvicorn", extra="serve")
    # It would write a line about each damaged form, and strangers could fill a disk with them.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    options = service.options
    config = uvicorn.Config(
        build_app(service),
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=round(options.timeout + SPARE),
    )
    port = listener.getsockname()[1]
    host = f"[{options.address}]" if ":" in options.address else options.address
    server = _make_server(uvicorn, config, stop, lambda: listening(f"http://{host}:{port}/"))
    if not stop.number:
        asyncio.run(server.serve([listener]))


@contextlib.contextmanager
def bound_socket(options: ServeOptions) -> Iterator[socket.socket]:
    """Yield a socket that has the address and the port. Raises: ServerError."""
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.address, options.port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ServerError(
                f"cannot listen on {options.address}, port {options.port}: {reason}; choose "
                "another `address` or `port` (0 is any free one)"
            ) from None
        yield listener


def _make_server(uvicorn: Any, config: Any, stop: Stop, listening: Callable[[], None]) -> Any:
    """Return uvicorn's server, which ends when a signal was noted."""

    class Server(uvicorn.Server):  # type: ignore[misc]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn would raise the signal again at the end: then the exit code is never 0.
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listening()

        async def on_tick(self, counter: int) -> bool:
            return bool(stop.number) or bool(await super().on_tick(counter))

    return Server(config)


def is_public(options: ServeOptions) -> bool:
    """Return whether others than this machine can reach the address."""
    return not is_loopback(options.address)
