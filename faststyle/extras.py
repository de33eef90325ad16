"""Packages that are installed with an extra: `pip install 'faststyle-trainer[video]'`."""

from __future__ import annotations

import importlib
from typing import Any

from faststyle.errors import DeviceError


def require(*packages: str, extra: str) -> Any:
    """Import packages of an extra, and return the last one.

    Raises: DeviceError with the command that installs them.

    Example:
        >>> av = require("av", extra="video")
    """
    module = None
    for package in packages:
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
            install = f"pip install 'faststyle-trainer[{extra}]'"
            raise DeviceError(f"this needs {package}{reason}: {install}") from None
    return module
