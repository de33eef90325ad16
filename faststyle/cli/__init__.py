"""The command line: a command parses, calls one function, and prints.

Nothing heavy is imported before a command runs, so that `--help` is instant.
"""

from __future__ import annotations

# Each module adds its commands to the app; `--help` lists them in this order.
from faststyle.cli import training, stylizing, sheets, live, serving  # noqa: F401  isort: skip
from faststyle.cli import web_app, exporting, converting, hub, slow  # noqa: F401  isort: skip
from faststyle.cli import judging, flicker, about, bench  # noqa: F401  isort: skip
from faststyle.cli.common import app
from faststyle.cli.stylizing import run_stylize
from faststyle.cli.training import run_train

__all__ = ["app", "run_stylize", "run_train"]
