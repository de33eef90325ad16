"""The parts that all commands share: the app, common options, and errors as one line."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO, cast, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from faststyle.errors import FaststyleError, Interrupted, one_line
from faststyle.files import output_error

SETTINGS = {"help_option_names": ["-h", "--help"]}
STDIN = 0
STDOUT = 1
STDERR = 2


class Command(TyperCommand):
    """A command that takes no file for an option: -dash.jpg, as `*.jpg` may give it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Exits with one line where one is the name of a file."""
        _refuse_files(self.params, ctx, args)
        return super().parse_args(ctx, args)


class CommandGroup(TyperGroup):
    """A `Command` that has subcommands too: their options come after their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. What the command itself requires, a subcommand does not."""
        if args and args[0] in self.commands:
            for param in self.params:
                param.required = False
        else:
            _refuse_files(self.params, ctx, args)
        return super().parse_args(ctx, args)


def _refuse_files(params: Iterable[Any], ctx: Any, args: list[str]) -> None:
    """Exit with one line where an argument that looks like an option is the name of a file."""
    known = {flag for param in params for flag in (*param.opts, *param.secondary_opts)}
    known |= set(SETTINGS["help_option_names"])
    for argument in args:
        if argument == "--":
            break
        as_usual = not argument.startswith("-") or argument in {*known, "-"}
        if not as_usual and os.path.lexists(argument):
            _print_error(one_line(f"{argument}: looks like an option; write ./{argument}"))
            ctx.exit(1)


class Stream:
    """Standard output or standard error, in which a failed write is no OSError.

    Of standard output it is an OutputError, this one and each one after it; a BrokenPipeError where
    the reader of a pipe went away, as in `faststyle list | head`. Of standard error it is ignored:
    there is nobody to tell.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        self._stream = stream
        self._number = number
        self._error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text. Raises: OutputError; BrokenPipeError."""
        with self._checked():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is left. Raises: OutputError; BrokenPipeError."""
        with self._checked():
            self._stream.flush()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # At its end Python writes what is left, and would print an error of its own. Source:
            # https://docs.python.org/3/library/signal.html#note-on-sigpipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)
            gone = isinstance(error, BrokenPipeError)
            self._error = error if gone else output_error("standard output", error)
        # Click tries a stream with a first empty text, and ignores its error.
        if self._error and self._number == STDOUT:
            raise self._error


class Program(typer.Typer):
    """Commands of which a standard stream that is closed or full is one line, whatever prints."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command, and exit."""
        _occupy_standard_streams()
        try:
            with (
                contextlib.redirect_stdout(cast(TextIO, Stream(sys.stdout, STDOUT))) as out,
                contextlib.redirect_stderr(cast(TextIO, Stream(sys.stderr, STDERR))),
            ):
                return self._run(out, *args, **kwargs)
        except BrokenPipeError:
            raise SystemExit(1) from None

    def _run(self, out: TextIO, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().__call__(*args, **kwargs)
            except SystemExit as end:
                if not end.code:  # otherwise an error has been told already
                    out.flush()
                raise
        except FaststyleError as error:  # of what prints outside of a command: --help, --version
            _print_error(str(error))
            raise SystemExit(error.exit_code) from None

    def command(  # type: ignore[override]  # the other arguments are passed on as they are
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return the decorator that adds a `Command`."""
        return super().command(name, **{"cls": Command, **settings})


app = Program(
    name="faststyle",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)

# Panels of --help.
MACHINE = "Machine"
OUTPUT = "Output"
LIMITS = "Limits"
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
# Of the servers: `serve` and `app`.
Address = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", help="One more name of this machine that requests may ask for.", metavar="NAME"
    ),
]
MaxBytes = Annotated[int, typer.Option(help="Bytes of a photo's file.", rich_help_panel=LIMITS)]
MaxPixels = Annotated[
    int, typer.Option(help="Pixels of a photo, and of its result.", rich_help_panel=LIMITS)
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
    return lambda line: typer.echo(one_line(with_flags(line, command)), err=True)


def print_notes(notes: Iterable[str], command: Callable[..., None]) -> None:
    """Print notes of the library to stderr, with the command's flags."""
    announce = announce_for(command)
    for note in notes:
        announce(f"note: {note}")


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that we raise on purpose into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FaststyleError as error:
            kind = "stopped" if isinstance(error, Interrupted) else "error"
            _print_error(with_flags(str(error), command), kind)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # the reader of a pipe has seen enough: `faststyle ... | head`
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            _print_error(
                "memory is full: close other programs, or take smaller pictures or fewer at once"
            )
            raise typer.Exit(1) from None

    return wrapper


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory is full. Without torch, which takes seconds, Python's error says it."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from faststyle.devices import is_out_of_memory

    return is_out_of_memory(error)


def _print_error(message: str, kind: str = "error") -> None:
    typer.echo(f"{kind}: {message}", err=True)


def _occupy_standard_streams() -> None:
    """Open the standard streams that are closed.

    Otherwise the next file that is opened would get the number of standard output, and all that is
    printed. Source: https://www.gnu.org/software/gnulib/manual/html_node/stdopen.html
    """
    # The wrong direction makes each use of input and output an error. Errors are told to nobody.
    for number, name, mode, direction in (
        (STDIN, "stdin", "r", os.O_WRONLY),
        (STDOUT, "stdout", "w", os.O_RDONLY),
        (STDERR, "stderr", "w", os.O_WRONLY),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, direction)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program, with the settings of `app`; `typer.run` takes none."""
    program = Program(
        add_completion=False, pretty_exceptions_enable=False, context_settings=SETTINGS
    )
    program.command()(command)
    program()
