"""The tree of errors, their exit codes, and the suggestions in their messages."""

from __future__ import annotations

import re

import pytest

from faststyle import errors
from faststyle.errors import FaststyleError, ImageError, Interrupted, did_you_mean, one_line


def leaves() -> dict[str, type[FaststyleError]]:
    return {
        c.__name__: c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, FaststyleError)
    }


def test_the_docstring_draws_every_error() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert set(drawn) == set(leaves()) - {"FaststyleError"}
    assert len(drawn) == 11
    assert all(
        leaf.__bases__ == (FaststyleError,)
        for name, leaf in leaves().items()
        if name != "FaststyleError"
    )


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_signals_have_the_exit_codes_of_a_shell(number: int, code: int) -> None:
    error = Interrupted("stopped after step 3", number)
    assert (error.exit_code, str(error)) == (code, "stopped after step 3")


def test_a_message_is_one_line() -> None:
    assert str(ImageError("a\nb.png: no such file\n")) == "a b.png: no such file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red\x1b[31m.png", "red\\x1b[31m.png"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\x9b31mb\tc", "a\\x9b31mb\\tc"),  # an escape sequence of one byte
        ("gnp.\u202egpj", "gnp.\\u202egpj"),  # would be shown from right to left
        ("\udcff.png", "\\udcff.png"),  # a byte that is no text
        ("Foto 10.00\u202fAM \u00e9\U0001f469\u200d\U0001f3a8.png",) * 2,
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, expected: str) -> None:
    assert one_line(text) == expected
    assert str(ImageError(text)) == expected


def test_everything_else_exits_with_1() -> None:
    assert {leaf.exit_code for leaf in leaves().values()} == {1}


@pytest.mark.parametrize(
    ("got", "prefix", "expected"),
    [
        ("stepz", "", " Did you mean 'steps'?"),
        ("stepz", "loss.", " Did you mean 'loss.steps'?"),
        ("zzz", "", " Allowed: batch_size, steps."),
        ("zzz", "loss.", " Allowed: loss.batch_size, loss.steps."),
    ],
)
def test_a_near_miss_gets_a_suggestion_else_the_list(got: str, prefix: str, expected: str) -> None:
    assert did_you_mean(got, ["steps", "batch_size"], prefix) == expected
