"""The command line: parse, call one function, print. No logic, and no heavy import before a command runs."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from faststyle.errors import FaststyleError, Interrupted

SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="faststyle",
    help="Train a small network that repaints any photo in the style of one painting, and use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)

bench_app = typer.Typer(
    help="Measure speed on this machine, beside a plain reference in the same run.", no_args_is_help=True
)
app.add_typer(bench_app, name="bench")

TRAINING, OBJECTIVE, MACHINE, OUTPUT = "Training", "Objective", "Machine", "Output"
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, mps, xpu or npu; one that is missing is an error.", rich_help_panel=MACHINE),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: all cores.", rich_help_panel=MACHINE)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
VggWeights = Annotated[
    Path | None,
    typer.Option(
        help="VGG weights: .safetensors, .pth or .h5; default: the cache, else a download.", rich_help_panel=MACHINE
    ),
]


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that we raise on purpose into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FaststyleError as error:
            kind = "stopped" if isinstance(error, Interrupted) else "error"
            typer.echo(f"{kind}: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # the reader of a pipe went away: `faststyle ... | head`
            sys.stderr.close()
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None

    return wrapper


@app.command()
@_reports_errors
def train(
    style: Annotated[str, typer.Option("--style", help="The painting: an image file.", metavar="PAINTING")],
    recipe: Annotated[
        str | None,
        typer.Option(help="smoke, quick, full, or a .toml file; default: quick, or the run's own with --resume."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the style; default: the painting's file name.")] = None,
    photos: Annotated[
        str | None, typer.Option(help="sample, coco, a folder, or hf:NAME[:SPLIT[:COLUMN]].", rich_help_panel=TRAINING)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.", rich_help_panel=TRAINING)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos a step and process.", rich_help_panel=TRAINING)] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the training crops, in pixels.", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bf16.", rich_help_panel=TRAINING)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of photos and weights.", rich_help_panel=TRAINING)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a stopped run was.", rich_help_panel=TRAINING)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again, and drop an unfinished run.", rich_help_panel=TRAINING)
    ] = False,
    strength: Annotated[
        float | None, typer.Option(help="Style against content: 1 is balanced, 2 is more.", rich_help_panel=OBJECTIVE)
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any key of the recipe: --set loss.mode=absolute.",
            metavar="KEY=VALUE",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The checkpoint; default: checkpoints/NAME.safetensors.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network for one painting.

    Example: faststyle train --style data/styles/nocturne.png --recipe quick
    """
    from dataclasses import asdict

    from faststyle.training.recipe import load_recipe
    from faststyle.training.trainer import train_style

    flags = {
        "photos": photos,
        "steps": steps,
        "batch_size": batch_size,
        "image_size": image_size,
        "precision": precision,
        "seed": seed,
        "loss.strength": strength,
    }
    as_the_run = resume and recipe is None and not sets and all(v is None for v in flags.values())
    result = train_style(
        style,
        None if as_the_run else load_recipe(recipe or "quick", sets or [], flags),
        name=name,
        checkpoint=output,
        resume=resume,
        overwrite=overwrite,
        vgg_weights=vgg_weights,
        device=device,
        threads=threads,
        quiet=False,
    )
    if not _is_first_process():
        return
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
        return
    for bad, reason in result.skipped:
        typer.echo(f"skipped photo {bad}: {reason}", err=True)
    minutes = f"{int(result.seconds // 60)}:{int(result.seconds % 60):02d} minutes"
    typer.echo(
        f"{result.steps} steps in {minutes}; on photos it never saw: "
        f"content_rel {result.content_rel:.3f}, style_rel {result.style_rel:.3f}"
    )
    typer.echo(f"checkpoint  {result.checkpoint}")
    typer.echo(f"preview     {result.preview}")
    typer.echo(f"use it      faststyle stylize PHOTO --style {result.checkpoint} -o out.png")


@app.command()
@_reports_errors
def stylize(
    photos: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or - for standard input.", metavar="PHOTO...")
    ],
    style: Annotated[str, typer.Option("--style", help="A checkpoint, or its name in checkpoints/.", metavar="NAME")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="A file (.png, .jpg, .webp), a folder, or - for standard output.")
    ],
    size: Annotated[int | None, typer.Option(help="Shorter side, in pixels; default: as it is.")] = None,
    keep_colors: Annotated[bool, typer.Option("--keep-colors", help="Keep the colours of the photo.")] = False,
    format: Annotated[str | None, typer.Option(help="png, jpg or webp, for outputs in a folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write outputs again that are there.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Stylize photos with a trained network.

    Example: faststyle stylize photo.jpg --style nocturne -o out.png
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from faststyle.stylize.batch import PIPE, plan_jobs, run_jobs
    from faststyle.stylize.stylizer import Stylizer

    jobs = plan_jobs(photos, output, format)
    stylizer = Stylizer.load(style, device, threads)
    console = Console(stderr=True)
    with Progress(console=console, disable=len(jobs) == 1 or not console.is_terminal) as bar:
        task = bar.add_task("stylizing", total=len(jobs))
        report = run_jobs(
            stylizer, jobs, size=size, keep_colors=keep_colors, overwrite=overwrite, done=lambda job: bar.advance(task)
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)), err=output == PIPE)
    elif output != PIPE:
        kept = f", {len(report.kept)} kept that were there (--overwrite writes them again)" if report.kept else ""
        what = report.written[0] if len(report.written) == 1 else f"{len(report.written)} pictures"
        if report.written or report.kept:
            typer.echo(f"wrote {what}{kept}")
    for name, reason in report.failed:
        typer.echo(f"error: {name}: {reason}", err=True)
    if report.failed:
        raise typer.Exit(1)


@app.command()
@_reports_errors
def info(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or its name in checkpoints/.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Say how a checkpoint was made.

    Example: faststyle info nocturne
    """
    from dataclasses import asdict

    from faststyle.checkpoint import find_checkpoint, read_about

    path = find_checkpoint(checkpoint)
    about = asdict(read_about(path))
    if as_json:
        typer.echo(json.dumps(about))
        return
    typer.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    for key, value in about.items():
        typer.echo(f"{key:9} {json.dumps(value) if isinstance(value, dict) else value}")


@app.command()
@_reports_errors
def weights(
    vgg: Annotated[str, typer.Option(help="vgg16 or vgg19.")] = "vgg16",
    vgg_weights: VggWeights = None,
    as_json: Json = False,
) -> None:
    """Say which VGG weights are in use and where they are from; download them if there are none.

    Example: faststyle weights
    """
    from faststyle.perceptual.weights import find_weights

    found = find_weights(vgg, vgg_weights)
    about = {"id": found.id, "arch": found.arch, "source": found.source, "license": found.license}
    typer.echo(json.dumps(about) if as_json else "\n".join(f"{k:8} {v}" for k, v in about.items()))


@bench_app.callback()
def bench() -> None:
    """Measure speed on this machine, beside a plain reference in the same run."""


@bench_app.command("train")
@_reports_errors
def bench_training(
    recipe: Annotated[str, typer.Option(help="smoke, quick, full, or a .toml file.")] = "quick",
    batch_size: Annotated[int | None, typer.Option(help="Photos a step.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the training crops, in pixels.")] = None,
    rounds: Annotated[int, typer.Option(help="Steps of each side that are timed.", min=1)] = 5,
    vgg_weights: VggWeights = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time a training step in images/s, in float32 on the CPU: ours, and the one that everyone copies.

    Example: faststyle bench train --recipe quick --batch-size 4
    """
    from dataclasses import asdict

    from faststyle.bench import bench_train
    from faststyle.devices import set_threads
    from faststyle.perceptual.weights import find_weights
    from faststyle.training.recipe import load_recipe

    set_threads(threads)
    settings = load_recipe(recipe, [], {"batch_size": batch_size, "image_size": image_size})
    result = asdict(bench_train(settings, find_weights(settings.vgg, vgg_weights), rounds))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for key, value in result.items():
        typer.echo(f"{key:13} {value:.2f}" if isinstance(value, float) else f"{key:13} {value}")


def run_train() -> None:
    """Run `faststyle train`: what train.py does."""
    _run_alone(train)


def run_stylize() -> None:
    """Run `faststyle stylize`: what stylize.py does."""
    _run_alone(stylize)


def _run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program, with the settings of `app`, which `typer.run` would not take."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=SETTINGS)
    program.command()(command)
    program()


def _is_first_process() -> bool:
    """Whether this is the one process of torchrun or accelerate launch that may print results."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


if __name__ == "__main__":
    app()
