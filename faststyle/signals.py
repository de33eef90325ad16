"""Stopping in good order: SIGINT and SIGTERM are noted, and the work stops where it suits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """The number of the first signal that came; 0 until then."""

    number = 0


@contextmanager
def noted_signals() -> Iterator[Stop]:
    """Yield a `Stop` that notes the first SIGINT or SIGTERM of the block.

    A second SIGINT (Ctrl-C) ends the program, as it would without this. SIGTERM may come any number
    of times: it goes to a whole process group, and launchers such as torchrun then pass it on to
    the same processes again.

    Outside the main thread Python handles no signals, and nothing is noted.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        stop.number = stop.number or number  # the first one decides the exit code
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
