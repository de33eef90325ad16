"""`faststyle export`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import Json, announce_for, app, print_notes, reports_errors
from faststyle.errors import one_line


@app.command()
@reports_errors
def export(
    styles: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE", help="A checkpoint, or its name in checkpoints/; of web several."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="FILE.onnx, FILE.xml with a .bin beside it, or a FOLDER for web."
        ),
    ],
    format: Annotated[
        str, typer.Option(help="onnx, openvino or web; default: by the output's name.")
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
    runtime: Annotated[
        Path | None,
        typer.Option(help="web: a folder of onnxruntime-web; default: from npm, once."),
    ] = None,
    hf_space: Annotated[
        bool, typer.Option("--hf-space", help="web: add the README of a static Hugging Face Space.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint for other programs, and compare the result with torch.

    `web` is a page that runs styles in the visitor's browser: docs/app.md.

    Example: faststyle export nocturne -o nocturne.onnx
    Example: faststyle export nocturne -o nocturne.xml --int8
    Example: faststyle export nocturne -o nocturne.onnx --size 480x848
    Example: faststyle export the_scream great_wave --format web -o page/
    """
    if format == "web":
        _refuse_for_web(int8=int8, size=size)
        _export_web(styles, output, runtime, hf_space, overwrite, as_json)
    else:
        _refuse_without_web(format, styles, runtime=runtime, hf_space=hf_space)
        _export_file(styles[0], output, format, int8, size, photos, overwrite, as_json)


def _export_file(
    checkpoint: str,
    output: Path,
    format: str,
    int8: bool,
    size: str | None,
    photos: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write one checkpoint as ONNX or for OpenVINO, and print the report."""
    from dataclasses import asdict

    from faststyle.checkpoint import find_checkpoint
    from faststyle.engines.export import SUFFIXES, export_checkpoint
    from faststyle.networks.network import MIN_SIDE
    from faststyle.sizes import parse_size

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
    made = f"{report.precision}, {mebibytes:.1f} MiB, in {report.seconds:.0f} s"
    typer.echo(one_line(f"wrote {files}: {made}"))


def _export_web(
    styles: list[str],
    output: Path,
    runtime: Path | None,
    hf_space: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the page, and print the report."""
    from dataclasses import asdict

    from faststyle.web.export import export_web

    report = export_web(
        styles,
        output,
        runtime=runtime,
        hf_space=hf_space,
        overwrite=overwrite,
        announce=announce_for(export),
    )
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str))
        return
    for style in report.styles:
        typer.echo(
            f"{style.name}: {style.size_bytes / 1e6:.2f} MB, weights in {style.precision}, at most "
            f"{255 * style.difference:.2f} of 255 levels from torch, {255 * style.mean:.2f} on "
            "average"
        )
    print_notes(report.notes, export)
    typer.echo(
        one_line(
            f"wrote {report.folder}: {report.size_bytes / 1e6:.0f} MB, most of it onnxruntime-web "
            f"{report.runtime}, in {report.seconds:.0f} s; see it: python -m http.server -d "
            f"{shlex.quote(str(report.folder))}"
        )
    )


def _refuse_for_web(**given: object) -> None:
    """Raise ExportError for an option that the page has no use for."""
    from faststyle.engines.export import ExportError

    for name, value in given.items():
        if value:
            raise ExportError(f"`{name}`: is for other formats than web")


def _refuse_without_web(format: str, styles: list[str], **given: object) -> None:
    """Raise ExportError for what only the page can use."""
    from faststyle.engines.export import SUFFIXES, ExportError
    from faststyle.errors import did_you_mean

    formats = ("auto", *SUFFIXES, "web")
    if format not in formats:
        raise ExportError(f"`format` {format}: unknown.{did_you_mean(format, formats)}")
    for name, value in given.items():
        if value:
            raise ExportError(f"`{name}`: is for `format` web only")
    if len(styles) > 1:
        raise ExportError(f"{len(styles)} styles: only `format` web takes more than one")
