"""Listen, serve the page, and stop in good order."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from faststyle.app.options import AppOptions
from faststyle.app.page import Workshop, build_page
from faststyle.app.parts import CSS, SCRIPT, load_gradio, make_theme
from faststyle.app.thumbnails import thumbnail_folder
from faststyle.errors import ServerError
from faststyle.hosts import LOCAL_NAMES, is_loopback, why_refused
from faststyle.serve.server import bound_socket
from faststyle.signals import noted_signals

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

KEPT = 3600.0  # seconds that uploads and results are kept
SWEEP_EVERY = 300.0  # seconds
TICK = 0.2  # seconds between two looks for a signal
QUEUE_TICK = 0.02  # seconds between two looks into the queue of requests
# Browsers load and reach nothing but this server. Gradio's page needs scripts in the page itself.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
# Of Gradio's own addresses: those that fetch from elsewhere, or that need not be reached.
CLOSED = ("file=http", "proxy=", "process_recording", "deep_link", "vibe", "run-history", "dev/")
FORM_BYTES = 64 * 1024  # of a request that is no upload, besides a frame of the webcam


@contextlib.contextmanager
def served(options: AppOptions, announce: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Serve the page for the block, and yield its address.

    At the end uploads and results are removed, and a training that runs saves its state. Raises:
    DeviceError without the extra; ServerError for an address or port that cannot be had.
    """
    folder = Path(tempfile.mkdtemp(prefix="faststyle-app-"))
    try:
        # Gradio reads it when its components are made.
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        gr = load_gradio()
        with bound_socket(options.serving()) as probe:
            port = probe.getsockname()[1]
        shop = Workshop(options, folder, announce)
        thumbnail_folder().mkdir(parents=True, exist_ok=True)
        gr.set_static_paths([thumbnail_folder()])
        page = build_page(gr, shop)
        ended = threading.Event()
        shop.open()
        try:
            threading.Thread(target=_sweep, args=(folder, ended), daemon=True).start()
            yield _launch(page, gr, options, port)
        finally:
            ended.set()
            page.close(verbose=False)
            shop.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_app(
    options: AppOptions,
    announce: Callable[[str], None] = lambda _: None,
    listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    `announce` is called with lines about the work, `listening` with the address once it is served.
    Raises: the errors of `served`.
    """
    with noted_signals() as stop, served(options, announce) as url:
        listening(url)
        while not stop.number:
            time.sleep(TICK)


def is_public(options: AppOptions) -> bool:
    """Return whether others than this machine can reach the page."""
    return options.share or not is_loopback(options.address)


def _launch(page: Any, gr: Any, options: AppOptions, port: int) -> str:
    """Start Gradio's server, and return the address. Raises: ServerError."""
    from starlette.middleware import Middleware

    page.queue(max_size=64, default_concurrency_limit=4)
    # Gradio's queue looks for work 1,000 times a second: a tenth of a core, also while it trains.
    page._queue.sleep_when_free = QUEUE_TICK
    try:
        _, local, shared = page.launch(
            server_name=options.address,
            server_port=port,
            share=options.share,
            mcp_server=options.mcp,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            inbrowser=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            pwa=False,
            footer_links=[],
            max_file_size=max(options.max_bytes, options.max_video_bytes),
            app_kwargs={"middleware": [Middleware(Guard, options=options)]},
            theme=make_theme(gr),
            css=CSS,
            js=SCRIPT,
        )
    except OSError as error:
        raise ServerError(
            f"cannot listen on {options.address}, port {port}: {error}; choose another `port`"
        ) from None
    if options.share and not shared:
        raise ServerError("`share`: Gradio's tunnel cannot be reached from here")
    return str(shared or local)


class Guard:
    """Refuses requests that are not for us, bodies that are too large, and closed addresses.

    Every answer tells the browser to load nothing from elsewhere.
    """

    def __init__(self, app: Any, options: AppOptions) -> None:
        self._app = app
        self._allowed = {*LOCAL_NAMES, *options.allowed_hosts()}
        self._share = options.share
        # A frame of the webcam comes as text, a third longer than its bytes.
        self._largest = options.max_bytes * 4 // 3 + FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        wrong = "" if self._share else why_refused(scope, self._allowed, "faststyle app")
        path = scope["path"].removeprefix("/gradio_api").lstrip("/")
        if wrong or path.startswith(CLOSED):
            answer = JSONResponse({"error": wrong or "closed"}, HTTPStatus.FORBIDDEN)
            await answer(scope, receive, send)
            return
        if not path.startswith("upload"):  # Gradio counts those itself
            headers = dict(scope["headers"])
            if b"transfer-encoding" in headers:
                answer = JSONResponse(
                    {"error": "the request must say its length"}, HTTPStatus.LENGTH_REQUIRED
                )
                await answer(scope, receive, send)
                return
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length[:18]) > self._largest:
                answer = JSONResponse(
                    {"error": "the request is too large"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                )
                await answer(scope, receive, send)
                return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def _sweep(folder: Path, ended: threading.Event) -> None:
    """Remove uploads and results once they are old, until the server ends."""
    while not ended.wait(SWEEP_EVERY):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime <= KEPT:
                    continue
                if path.is_file():
                    path.unlink()
                else:
                    path.rmdir()  # only where it is empty
