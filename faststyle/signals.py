"""Stopping in good order: SIGINT and SIGTERM are noted, and acted upon where it suits the work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Holds the number of the first signal that came, else 0."""

    number = 0


@contextmanager
def noted_signals() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM in what is yielded; a second SIGINT, as of Ctrl-C, ends the
    program as it would without this.

    SIGTERM may come any number of times: launchers such as torchrun pass it on to processes that
    have had it already, as all of their group.

    Outside the main thread signals are not ours, and nothing is noted.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        stop.number = stop.number or number
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
