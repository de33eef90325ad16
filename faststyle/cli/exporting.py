"""`faststyle export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import Json, announce_for, app, reports_errors


@app.command()
@reports_errors
def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, or its name in checkpoints/.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="FILE.onnx, or FILE.xml with a .bin beside it.")
    ],
    format: Annotated[
        str, typer.Option(help="onnx or openvino; default: by the output's name.")
    ] = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="Most convolutions in 8 bits (OpenVINO).")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            help="Fixed HEIGHTxWIDTH, for OpenCV, TensorRT and phones; default: any size."
        ),
    ] = None,
    photos: Annotated[
        str, typer.Option(help="Photos to find the ranges of --int8 with, as for train.")
    ] = "sample",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint for other programs, and compare the result with torch.

    Example: faststyle export nocturne -o nocturne.onnx
    Example: faststyle export nocturne -o nocturne.xml --int8
    Example: faststyle export nocturne -o nocturne.onnx --size 480x848
    """
    from dataclasses import asdict

    from faststyle.checkpoint import find_checkpoint
    from faststyle.engines.export import SUFFIXES, export_checkpoint
    from faststyle.images import parse_size
    from faststyle.networks.network import MIN_SIDE

    if format == "auto":
        format = next(
            (name for name, suffix in SUFFIXES.items() if suffix == output.suffix), "onnx"
        )
    report = export_checkpoint(
        find_checkpoint(checkpoint),
        output,
        format,
        int8,
        photos,
        announce_for(export),
        size=None if size is None else parse_size(size, MIN_SIDE),
        overwrite=overwrite,
    )
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str))
        return
    for check in report.checks:
        levels = 255 * check.difference
        typer.echo(
            f"{check.engine}, {check.precision}, {check.size}: at most {levels:.2f} of 255 levels "
            f"from torch, structural similarity {check.ssim:.4f}"
        )
    files = " and ".join(map(str, report.files))
    mebibytes = report.size_bytes / 2**20
    typer.echo(f"wrote {files}: {report.precision}, {mebibytes:.1f} MiB, in {report.seconds:.0f} s")
