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
    ├── TrainingError     training failed: a term that is not finite, a dead output
    └── Interrupted       SIGINT or SIGTERM ended a run in good order

Only `cli/` catches them: one line on stderr, then `exit_code`. Anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FaststyleError(Exception):
    """Base of all expected errors; the message is one line, fit to be shown to a person."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Messages of other libraries and names of files may have several lines.
        super().__init__(" ".join(message.splitlines()))


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


class TrainingError(FaststyleError):
    """Training failed in a way that more steps would not repair."""


class Interrupted(FaststyleError):
    """A signal ended the run in good order; `exit_code` is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def did_you_mean(got: str, allowed: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean X?" if `got` is close to one of the `allowed` names, else all of them.

    `prefix` goes before each name.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(got, names, n=1)
    if close:
        return f" Did you mean {prefix + close[0]!r}?"
    return f" Allowed: {', '.join(prefix + name for name in names)}."
