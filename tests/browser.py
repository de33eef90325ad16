"""Real Chromium for tests of pages: found, started, and watched for errors and for requests.

Pages are served on the loopback only. A test gets a `Watched` page, and asks it at the end whether
the console stayed clean and what was asked of other hosts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from faststyle.files import cache_folder
from faststyle.web.runtime import integrity

# Debian's name first; `FASTSTYLE_CHROMIUM` names another.
CHROMIUM = next(
    filter(
        None,
        (
            os.environ.get("FASTSTYLE_CHROMIUM"),
            *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
        ),
    ),
    None,
)
# Containers have no sandbox of their own. The camera is a moving picture of Chromium's own, and
# its permission is given without a question.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
# Shared memory, and so threads, is only for pages that come with these.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
LOCAL = ("127.0.0.1", "localhost")
CACHE = cache_folder()  # of the user, before the tests get one of their own
AXE = "https://registry.npmjs.org/axe-core/-/axe-core-4.14.1.tgz"
AXE_INTEGRITY = (
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NP"
    "jCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)


def needs_chromium() -> pytest.MarkDecorator:
    """Skip where there is no Chromium, or no playwright to steer it."""
    missing = [
        name
        for name, found in (("playwright", find_spec("playwright")), ("chromium", CHROMIUM))
        if not found
    ]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Yield a headless Chromium, as playwright's `Browser`; `flags` are added to ours."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what happened on it: errors in its console, and addresses that it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> list[str]:
        """The requests that went to another host than this machine."""
        own = ("blob", "data")
        parts = [(url, urlsplit(url)) for url in self.requests]
        return [url for url, p in parts if p.scheme not in own and p.hostname not in LOCAL]


@contextlib.contextmanager
def watched_page(browser: Any, **context: Any) -> Iterator[Watched]:
    """Yield a new page in a context of its own; `context` are playwright's options for it."""
    with contextlib.closing(browser.new_context(**context)) as opened:
        page = opened.new_page()
        watched = Watched(page)
        # Requests of workers are seen by the context, not by the page.
        opened.on("request", lambda request: watched.requests.append(request.url))
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("console", lambda line: _note(watched, line))
        yield watched


def _note(watched: Watched, line: Any) -> None:
    if line.type in ("error", "warning"):
        watched.errors.append(line.text)


def wait_until(page: Any, condition: str, seconds: float = 180) -> None:
    """Wait until a JavaScript expression is true on a page.

    playwright's own `wait_for_function` needs `eval`, which a strict page does not allow.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not true after {seconds:.0f} s: {condition}"
        page.wait_for_timeout(50)


@contextlib.contextmanager
def served(folder: Path, headers: Mapping[str, str] = ISOLATED) -> Iterator[str]:
    """Yield the address of a folder that is served on the loopback, with these headers."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {
            **SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read_axe() -> str:
    """Return the source of axe-core, which looks for what shuts people out; skip without it."""
    file = CACHE / "axe-core.tgz"
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(AXE, timeout=30) as answer:
                file.write_bytes(answer.read())
    except OSError as error:
        pytest.skip(f"axe-core cannot be had: {error}")
    assert integrity(file) == AXE_INTEGRITY
    with tarfile.open(file) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()
