"""`faststyle slow`."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    MACHINE,
    OUTPUT,
    Device,
    Json,
    Threads,
    VggWeights,
    app,
    reports_errors,
)
from faststyle.errors import one_line

if TYPE_CHECKING:  # slow/ imports torch, which --help does not wait for
    from faststyle.slow.run import SlowResult

# Panels of --help.
OBJECTIVE = "Objective"
DESCENT = "Descent"
STEPS = "On the way"


@app.command()
@reports_errors
def slow(
    content: Annotated[Path, typer.Argument(help="The photo.", metavar="CONTENT")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A file: .png, .jpg or .webp.", rich_help_panel=OUTPUT),
    ],
    painting: Annotated[
        list[str] | None,
        typer.Option(
            "--painting",
            "--style",
            help="A painting; several are blended by weight.",
            metavar="FILE[:WEIGHT]",
        ),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            "--mask",
            help="Where a painting applies: white on black; one for each --painting, in order.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Shorter side of the result, in pixels; default: the photo's, at most 512."
        ),
    ] = None,
    keep_colors: Annotated[
        bool, typer.Option("--keep-colors", help="Keep the colours of the photo.")
    ] = False,
    strength: Annotated[
        float,
        typer.Option(
            help="Style against content: 0 is content alone, inf style alone.",
            rich_help_panel=OBJECTIVE,
        ),
    ] = 1.0,
    tv: Annotated[
        float | None,
        typer.Option(
            help="Weight of total variation: more is smoother.", rich_help_panel=OBJECTIVE
        ),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            help="paper (Gatys et al.) or training (the objective of networks).",
            rich_help_panel=OBJECTIVE,
        ),
    ] = "paper",
    content_layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Content layers, in place of those of --layers: relu3_3.",
            metavar="LAYER[:WEIGHT]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    style_layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Style layers, in place of those of --layers: relu3_1:2.",
            metavar="LAYER[:WEIGHT]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    style_scale: Annotated[
        float,
        typer.Option(
            help="Size of the painting beside the image: 2 doubles its strokes.",
            rich_help_panel=OBJECTIVE,
        ),
    ] = 1.0,
    dream: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers whose activations are maximised, as in DeepDream.",
            metavar="LAYER[:WEIGHT]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    vgg: Annotated[str, typer.Option(help="vgg16 or vgg19.", rich_help_panel=OBJECTIVE)] = "vgg16",
    pooling: Annotated[
        str, typer.Option(help="max or average.", rich_help_panel=OBJECTIVE)
    ] = "max",
    optimizer: Annotated[
        str, typer.Option(help="lbfgs or adam.", rich_help_panel=DESCENT)
    ] = "lbfgs",
    steps: Annotated[int, typer.Option(help="Steps at each size.", rich_help_panel=DESCENT)] = 300,
    init: Annotated[
        str, typer.Option(help="content, noise, style, or a file.", rich_help_panel=DESCENT)
    ] = "content",
    smallest: Annotated[
        int,
        typer.Option(
            help="The first size, in pixels; equal to --size: one size only.",
            rich_help_panel=DESCENT,
        ),
    ] = 128,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Default: 1 for L-BFGS, 0.02 for Adam.", rich_help_panel=DESCENT),
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(
            help="Decay of a running mean of images; default: 0.98 for Adam, 0 for L-BFGS.",
            rich_help_panel=DESCENT,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", rich_help_panel=DESCENT)] = 0,
    print_every: Annotated[
        int, typer.Option(help="Print the terms every N steps.", rich_help_panel=STEPS)
    ] = 0,
    save_every: Annotated[
        int,
        typer.Option(
            help="Keep the image of every N steps, as OUT-000100.png.", rich_help_panel=STEPS
        ),
    ] = 0,
    gif: Annotated[
        Path | None, typer.Option(help="A file for an animation of the way.", rich_help_panel=STEPS)
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="A file of JSON lines: step, seconds, each term, memory.", rich_help_panel=STEPS
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Write over files that are there.", rich_help_panel=OUTPUT
        ),
    ] = False,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, float32 or bf16.", rich_help_panel=MACHINE)
    ] = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Optimise one image, as Gatys et al. (2015) do: slow, and the reference for networks.

    Example: faststyle slow photo.jpg --painting painting.jpg -o out.png
    """
    from faststyle.devices import set_threads
    from faststyle.perceptual.weights import find_weights
    from faststyle.slow.run import SlowJob, configure, parse_objective, parse_painting, run_slow

    loss = parse_objective(layers, content_layer or [], style_layer or [], strength, tv, vgg)
    config, init_file = configure(
        loss=loss,
        init=init,
        steps=steps,
        smallest=smallest,
        optimizer=optimizer,
        learning_rate=learning_rate,
        average=average,
        style_scale=style_scale,
        dream=dream or [],
        pooling=pooling,
        vgg=vgg,
        precision=precision,
        seed=seed,
    )
    job = SlowJob(
        content=content,
        output=output,
        styles=[parse_painting(text) for text in painting or []],
        masks=mask or [],
        init_file=init_file,
        keep_colors=keep_colors,
        print_every=print_every,
        save_every=save_every,
        gif=gif,
        trace=trace,
        overwrite=overwrite,
    )
    set_threads(threads)
    weights = partial(find_weights, vgg, vgg_weights)
    _print_result(run_slow(job, config, size, weights, device, quiet=False), as_json)


def _print_result(result: SlowResult, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
        return
    # A dream alone has no content_rel and no style_rel.
    terms = "  ".join(
        f"{name} {result.terms[name]:.3f}"
        for name in ("content_rel", "style_rel", "total")
        if name in result.terms
    )
    typer.echo(f"{result.steps} steps in {result.seconds:.0f} s  {terms}")
    typer.echo(one_line(f"wrote {result.output}"))
