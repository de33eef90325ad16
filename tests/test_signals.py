"""Signals that the test sends to its own process: the first is noted, a second Ctrl-C ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from faststyle.signals import noted_signals

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def came() -> Iterator[list[int]]:
    """Signals that reach the handlers of the test, which stand for those of a program."""
    found: list[int] = []
    before = {number: signal.signal(number, lambda n, _: found.append(n)) for number in BOTH}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "second"), [(signal.SIGINT, [signal.SIGINT]), (signal.SIGTERM, [])]
)
def test_the_first_is_noted_and_a_second_sigint_reaches_the_handler_before(
    came: list[int], number: signal.Signals, second: list[int]
) -> None:
    with noted_signals() as stop:
        assert stop.number == 0
        signal.raise_signal(number)
        assert (stop.number, came) == (number, [])
        signal.raise_signal(number)
        assert (stop.number, came) == (number, second)


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    with noted_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_of_each_is_noted_as_the_first_and_ends_nothing(came: list[int]) -> None:
    with noted_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert (stop.number, came) == (signal.SIGINT, [])


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in BOTH]


def fail() -> None:
    with noted_signals():
        raise ValueError("of the body, not of signal.signal")


def test_handlers_are_as_before_afterwards() -> None:
    before = handlers()
    with noted_signals():
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
        signal.raise_signal(signal.SIGTERM)
    assert handlers() == before
    with pytest.raises(ValueError, match="of the body"):
        fail()
    assert handlers() == before


def test_two_runs_in_one_process_do_not_share_what_was_noted(came: list[int]) -> None:
    with noted_signals() as first:
        signal.raise_signal(signal.SIGTERM)
    with noted_signals() as second:
        assert (first.number, second.number) == (signal.SIGTERM, 0)


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before = handlers()
    seen: list[object] = []

    def work() -> None:
        with noted_signals() as stop:
            seen.extend([stop.number, handlers() == before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0, True]
