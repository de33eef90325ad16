"""`faststyle train`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    OUTPUT,
    Device,
    Json,
    Threads,
    VggWeights,
    announce_for,
    app,
    print_notes,
    reports_errors,
    run_alone,
)
from faststyle.errors import RecipeError, one_line

if TYPE_CHECKING:
    from faststyle.training.each import EachResult
    from faststyle.training.report import Result

TRAINING = "Training"
OBJECTIVE = "Objective"
MANY = "Many paintings"


@app.command()
@reports_errors
def train(
    style: Annotated[
        str,
        typer.Option(
            "--painting",
            "--style",
            help="An image file; or a folder of paintings, for one network of all (or --each).",
            metavar="PAINTING",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="instant, quick, long, full, distill, collection, smoke, or a .toml file; "
            "default: quick, or the run's own with --resume."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the style; default: the painting's file name.")
    ] = None,
    photos: Annotated[
        str | None,
        typer.Option(
            help="sample, coco, a folder, hf:NAME[:SPLIT[:COLUMN]], or .tar or .parquet files: "
            "a file, a URL, or a pattern in quotes.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimisation steps.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos a step and process.", rich_help_panel=TRAINING)
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the training crops, in pixels.", rich_help_panel=TRAINING),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="johnson or mobile, with its width: mobile-32.", rich_help_panel=TRAINING
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="base (near any painting), scratch, or a checkpoint.", rich_help_panel=TRAINING
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A trained style that a smaller network copies; see the recipe distill.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bf16.", rich_help_panel=TRAINING)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of photos and weights.", rich_help_panel=TRAINING)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a stopped run was.", rich_help_panel=TRAINING),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Start again; replace a checkpoint or a run that is there.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Style against content: 1 is balanced, 2 is more.", rich_help_panel=OBJECTIVE
        ),
    ] = None,
    stroke_size: Annotated[
        float | None,
        typer.Option(help="Strokes: 1 is as painted, 2 twice as large.", rich_help_panel=OBJECTIVE),
    ] = None,
    stability: Annotated[
        float | None,
        typer.Option(
            help="How much pictures must follow a photo that moves, for video; 0 is not at all.",
            rich_help_panel=OBJECTIVE,
        ),
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
            "-o",
            "--output",
            help="The checkpoint; default: checkpoints/NAME.safetensors.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="A network of its own for each painting of a folder.",
            rich_help_panel=MANY,
        ),
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option(
            help="With --each: networks that a process trains at once, on the same photos "
            "(default: 4).",
            min=1,
            rich_help_panel=MANY,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network for one painting, or one network for a folder of paintings.

    Example: faststyle train --painting data/styles/nocturne.png --recipe quick
    """
    from faststyle.networks import parse_network
    from faststyle.training.each import AT_ONCE, train_each
    from faststyle.training.recipe import load_recipe
    from faststyle.training.train import train_style

    flags = {
        "photos": photos,
        "steps": steps,
        "batch_size": batch_size,
        "image_size": image_size,
        "precision": precision,
        "seed": seed,
        "network": None if network is None else parse_network(network) or {"name": network},
        "init": init,
        "teacher": teacher,
        "stroke_size": stroke_size,
        "stability": stability,
        "loss.strength": strength,
    }
    as_the_run = resume and recipe is None and not sets and all(v is None for v in flags.values())
    settings = None if as_the_run else load_recipe(recipe or "quick", sets or [], flags)
    if at_once is not None and not each:
        raise RecipeError("`at_once` is for `each`: add it, or leave `at_once` out")
    if each:
        if name is not None or output is not None:
            raise RecipeError("with `each`, styles are named by their files: no `name`, `output`")
        many = train_each(
            style,
            settings,
            resume=resume,
            overwrite=overwrite,
            vgg_weights=vgg_weights,
            device=device,
            threads=threads,
            at_once=AT_ONCE if at_once is None else at_once,
            quiet=False,
        )
        if many is not None:  # in the first process
            _print_each(many, as_json)
        return
    result = train_style(
        style,
        settings,
        name=name,
        checkpoint=output,
        resume=resume,
        overwrite=overwrite,
        vgg_weights=vgg_weights,
        device=device,
        threads=threads,
        quiet=False,
    )
    if _is_first_process():
        _print_result(result, as_json)


def _print_result(result: Result, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
        return
    for name, reason in result.skipped:
        typer.echo(one_line(f"skipped {name}: {reason}"), err=True)
    minutes = f"{int(result.seconds // 60)}:{int(result.seconds % 60):02d} minutes"
    typer.echo(
        f"{result.steps} steps in {minutes}; on photos it never saw: "
        f"content_rel {result.content_rel:.3f}, style_rel {result.style_rel:.3f}"
    )
    judge = result.judge
    if judge is not None:
        typer.echo(
            f"judge       style_closed {judge.style_closed:.2f}  "
            f"clear_distance {judge.clear_distance:.2f}  light {judge.light:.2f}  "
            f"grid {judge.grid:.1f}"
        )
    typer.echo(one_line(f"checkpoint  {result.checkpoint}"))
    typer.echo(one_line(f"preview     {result.preview}"))
    named = f"{result.checkpoint}" if judge is not None else f"{result.checkpoint}:PAINTING"
    typer.echo(one_line(f"use it      faststyle stylize PHOTO --style {named} -o out.png"))


def _print_each(result: EachResult, as_json: bool) -> None:
    """Print a line for each painting, those that failed last. Exits with 1 where one failed."""
    announce = announce_for(train)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        for name in result.finished:
            announce(f"{name}: finished before")
        skipped = {(bad, why): None for one in result.trained for bad, why in one["skipped"]}
        for bad, why in skipped:
            announce(f"skipped {bad}: {why}")
        for one in result.trained:
            print_notes(one["notes"], train)
            typer.echo(
                one_line(
                    f"{one['name']}: content_rel {one['content_rel']:.3f}, "
                    f"style_rel {one['style_rel']:.3f}, {one['checkpoint']}"
                )
            )
    for name, reason in result.failed:
        announce(f"failed {name}: {reason}")
    if result.failed:
        raise typer.Exit(1)


def run_train() -> None:
    """Run `faststyle train`: what train.py does."""
    run_alone(train)


def _is_first_process() -> bool:
    """Return whether this is the first of the processes that a launcher started."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
