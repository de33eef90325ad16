"""The parts that all commands share: the app, common options, and errors as one line."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from faststyle.errors import FaststyleError, Interrupted

SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="faststyle",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)

# Panels of --help.
MACHINE = "Machine"
OUTPUT = "Output"
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, mps, xpu or npu; a missing device is an error.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads; default: all cores.", rich_help_panel=MACHINE)
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the network: torch, onnxruntime or openvino; auto is the fastest there is.",
        rich_help_panel=MACHINE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="auto, float32, bf16, f16, or int8 (OpenVINO on CPUs).", rich_help_panel=MACHINE
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)
]
VggWeights = Annotated[
    Path | None,
    typer.Option(
        help="VGG weights: .safetensors, .pth or .h5; default: the cache, else a download.",
        rich_help_panel=MACHINE,
    ),
]


def with_flags(message: str, command: Callable[..., None]) -> str:
    """Return a message with the flag of a command for each `field`: --precision for `precision`.

    The library names fields in backticks, because its callers have no command line. A field that
    the command has no option for loses its backticks.
    """
    flags = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        options = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, OptionInfo)]
        for option in options:
            # With Annotated, typer keeps the first flag in the place of the default.
            declared = [str(option.default), *(option.param_decls or ())]
            names = [flag for flag in declared if flag.startswith("-")]
            names = names or ["--" + name.replace("_", "-")]
            # The first flag is the short one where there are two: -o of -o and --output.
            for field in (name, *(flag.lstrip("-").replace("-", "_") for flag in names)):
                flags[field] = names[0]
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[1]), message)


def announce_for(command: Callable[..., None]) -> Callable[[str], None]:
    """Return the function that prints a line of the library to stderr, with the command's flags."""
    return lambda line: typer.echo(with_flags(line, command), err=True)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that we raise on purpose into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FaststyleError as error:
            kind = "stopped" if isinstance(error, Interrupted) else "error"
            typer.echo(f"{kind}: {with_flags(str(error), command)}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # the reader of a pipe went away: `faststyle ... | head`
            sys.stderr.close()
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None

    return wrapper


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program, with the settings of `app`; `typer.run` takes none."""
    program = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings=SETTINGS
    )
    program.command()(command)
    program()
