"""Frames a second of the page of `faststyle export --format web`, in headless Chromium.

    scripts/web_speed PAGE [--side 256] [--seconds 20] [--style ID]

The camera is Chromium's own moving picture. The page is served on the loopback, with the headers
that threads need. It also prints how much the memory of the page grew meanwhile.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import psutil
from browser import chromium, served, wait_until, watched_page

WARM_UP = 5  # frames
FRAMES = "Number(document.querySelector('#picture').dataset.frames || 0)"


def renderer_memory() -> int:
    """Return the bytes that the renderers of our Chromium hold for themselves."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        if "--type=renderer" in process.cmdline():
            memory = process.memory_info()
            total += memory.rss - memory.shared
    return total


def measure(page: Any, side: int, seconds: float, style: str | None) -> None:
    """Print the rate and the growth of memory of the page's camera."""
    if style:
        page.locator(f"input[name=style][value={style}]").check(force=True)
    # A size that is not in the list is added to it.
    page.evaluate(
        """(side) => {
          const list = document.querySelector("#live");
          list.add(new Option(side, side));
          list.value = String(side);
        }""",
        side,
    )
    page.click("#camera")
    wait_until(page, f"{FRAMES} >= {WARM_UP}", 600)
    began = time.monotonic()
    first = page.evaluate(FRAMES)
    memory = renderer_memory()
    page.wait_for_timeout(1000 * seconds)
    frames = page.evaluate(FRAMES) - first
    rate = frames / (time.monotonic() - began)
    grown = (renderer_memory() - memory) / 1e6
    print(f"{rate:.2f} frames a second of {side}x{side} pixels, {page.text_content('#rate')}")
    print(f"{frames} frames; memory of the page: {memory / 1e6:.0f} MB, and {grown:+.1f} MB")
    print(page.text_content("#notes"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the page")
    parser.add_argument("--side", type=int, default=256, help="of a square of the same area")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--style", help="its id in styles.json; default: the first")
    given = parser.parse_args()
    with (
        served(given.folder) as address,
        chromium() as browser,
        watched_page(browser) as watched,
    ):
        watched.page.goto(address)
        watched.page.wait_for_selector("body[data-ready]")
        measure(watched.page, given.side, given.seconds, given.style)
        assert watched.errors == []


if __name__ == "__main__":
    main()
