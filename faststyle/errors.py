"""Every error that faststyle raises on purpose; its message is one line that names the fix.

    FaststyleError
    ├── ImageError        a picture cannot be read, is too small, or too large
    ├── PhotosError       a source of training photos is missing, empty or unreadable
    ├── WeightsError      VGG weights could not be found, downloaded or understood
    ├── RecipeError       an unknown recipe, key or value
    ├── CheckpointError   a checkpoint is missing, truncated, or of another version
    ├── StateError        a run cannot start or resume from the state on disk
    ├── OutputError       something cannot be written (no permission, full disk)
    ├── DeviceError       a device that was asked for is not there
    ├── ServerError       the service cannot be started
    ├── TrainingError     training failed: a term that is not finite, a dead output
    └── Interrupted       SIGINT or SIGTERM ended a run in good order

Only `cli/` catches them: one line on stderr, then `exit_code`. Anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# Directions of text that change the order of the characters after them.
REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


class FaststyleError(Exception):
    """Base of all expected errors; the message is one line, fit to be shown to a person."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ImageError(FaststyleError):
    """A picture cannot be read, is too small, or is too large."""


class PhotosError(FaststyleError):
    """A source of training photos is missing, empty or unreadable."""


class WeightsError(FaststyleError):
    """VGG weights could not be found, downloaded or understood."""


class RecipeError(FaststyleError):
    """An unknown recipe or key, or a value that is not allowed."""


class CheckpointError(FaststyleError):
    """A checkpoint is missing, truncated, or of another version."""


class StateError(FaststyleError):
    """A run cannot start or resume from the state that is on disk."""


class OutputError(FaststyleError):
    """Something cannot be written."""


class DeviceError(FaststyleError):
    """A device that was asked for is not there, or has too little memory."""


class ServerError(FaststyleError):
    """The service cannot be started: a limit that makes no sense, a port that is taken."""


class TrainingError(FaststyleError):
    """Training failed in a way that more steps would not repair."""


class Interrupted(FaststyleError):
    """A signal ended the run in good order; `exit_code` is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """Return a text as one line that is safe to print: control characters are spelled out.

    Names of files, metadata and messages of other libraries may have several lines, escape
    sequences that a terminal would obey, and bytes that are no text.

    Example:
        >>> one_line("red\x1b[31m.png")
        'red\\x1b[31m.png'
    """
    line = " ".join(text.splitlines())
    return "".join(c if _is_safe(c) else c.encode("unicode_escape").decode() for c in line)


def _is_safe(character: str) -> bool:
    """Return whether a terminal prints a character, and does nothing else."""
    if unicodedata.category(character) in ("Cc", "Cs"):
        return False
    return unicodedata.bidirectional(character) not in REORDERING


def did_you_mean(got: str, allowed: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean X?" if `got` is close to one of the `allowed` names, else all of them.

    `prefix` goes before each name.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(got, names, n=1)
    if close:
        return f" Did you mean {prefix + close[0]!r}?"
    return f" Allowed: {', '.join(prefix + name for name in names)}."
