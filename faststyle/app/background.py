"""Long work in a thread, which a page follows and may stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from faststyle.errors import FaststyleError

T = TypeVar("T")
R = TypeVar("R")
EVERY = 0.5  # seconds between two looks at the work


class StoppedError(FaststyleError):
    """Work in the background was stopped by the person who started it."""


class _Told(Generic[T, R]):
    """What the work told last, and how it ended."""

    def __init__(self) -> None:
        self.latest: list[T] = []
        self.result: list[R] = []
        self.error: BaseException | None = None


def followed(
    run: Callable[[Callable[[T], None]], R], stop: threading.Event
) -> Generator[T, None, R]:
    """Yield what `run(tell)` told last, twice a second; return its result.

    `run` works in a thread. Its call of `tell` raises StoppedError once `stop` is set, or once
    nobody follows any more. Raises: what `run` raises.
    """
    told: _Told[T, R] = _Told()

    def tell(value: T) -> None:
        if stop.is_set():
            raise StoppedError("stopped")
        told.latest = [value]

    def work() -> None:
        try:
            told.result = [run(tell)]
        except BaseException as error:
            told.error = error

    thread = threading.Thread(target=work, name="background", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(EVERY)
            latest, told.latest = told.latest, []
            yield from latest
    finally:
        stop.set()
    if told.error is not None:
        raise told.error
    return told.result[0]


class Stops:
    """For each page that is open, the event that stops its work."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def renew(self, page: str) -> threading.Event:
        """Stop the work of a page, and return the event for new work."""
        self.stop(page)
        self._events[page] = threading.Event()
        return self._events[page]

    def stop(self, page: str) -> None:
        """Stop the work of a page, if there is any."""
        event = self._events.pop(page, None)
        if event is not None:
            event.set()

    def stop_all(self) -> None:
        """Stop the work of all pages."""
        for page in list(self._events):
            self.stop(page)
