"""Train a small network that repaints any photo in the style of one painting, and use it.

    from faststyle import Stylizer
    stylizer = Stylizer.load("nocturne")
    stylizer("photo.jpg").save("out.png")

Public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faststyle.images import read_image, write_image
    from faststyle.judge import Judge
    from faststyle.slow.optimize import optimize_image
    from faststyle.stylize.stylizer import Stylizer
    from faststyle.training.train import train_style

__version__ = "0.1.0"

__all__ = ["Judge", "Stylizer", "optimize_image", "read_image", "train_style", "write_image"]

_HOMES = {
    "Judge": "faststyle.judge",
    "Stylizer": "faststyle.stylize.stylizer",
    "optimize_image": "faststyle.slow.optimize",
    "train_style": "faststyle.training.train",
    "read_image": "faststyle.images",
    "write_image": "faststyle.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'faststyle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *_HOMES))
