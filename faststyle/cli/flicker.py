"""`faststyle compare flicker`: how much networks flicker on clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    Device,
    Engine,
    Json,
    Precision,
    Threads,
    announce_for,
    print_notes,
    reports_errors,
)
from faststyle.cli.judging import compare_app
from faststyle.errors import one_line

if TYPE_CHECKING:  # compare/ imports torch, which --help does not wait for
    from faststyle.compare.results import FlickerRow


@compare_app.command("flicker")
@reports_errors
def compare_flicker(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Checkpoints, or their names in checkpoints/.", metavar="CKPT..."),
    ],
    video: Annotated[
        list[Path],
        typer.Option(
            help="A clip, numbered pictures or a folder of them; may be repeated.", metavar="CLIP"
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A folder for figures, plot and clips.", metavar="DIR"),
    ],
    size: Annotated[
        int, typer.Option(help="Largest shorter side, in pixels: larger clips are reduced.")
    ] = 384,
    frames: Annotated[
        int | None, typer.Option(help="Take the first so many of each clip; default: all.", min=2)
    ] = None,
    smooth: Annotated[
        float, typer.Option(help="Smooth the outputs as stylize --smooth does: 0 to 0.95.")
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over results that are there.")
    ] = False,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how much networks flicker on clips, beside the clips themselves.

    Example: faststyle compare flicker the_scream great_wave --video walk.mp4 -o flicker/
    """
    from faststyle.compare import flicker
    from faststyle.devices import set_threads
    from faststyle.engines.options import EngineOptions
    from faststyle.video.options import is_clip

    for name in filter(is_clip, checkpoints):
        raise typer.BadParameter(f"{name} is a clip; write --video {name}", param_hint="CKPT")
    set_threads(threads)
    report = flicker.compare_flicker(
        checkpoints,
        video,
        output,
        size=size,
        frames=frames,
        smooth=smooth,
        engine=EngineOptions(engine, device, precision, threads),
        overwrite=overwrite,
        quiet=False,
        announce=announce_for(compare_flicker),
    )
    print_notes(report.notes, compare_flicker)
    if as_json:
        typer.echo(flicker.report_json(report))
        return
    _print_rows(report.rows)
    typer.echo(one_line(f"wrote {output / flicker.JSON}, {flicker.PLOT} and a clip of each row"))


def _print_rows(rows: list[FlickerRow]) -> None:
    """Print a table. In brackets are the figures of the clip itself."""
    from rich.console import Console
    from rich.table import Table

    headings = ("clip", "network", "frames", "error x1000", "over 5 frames", "noise gain", "fast")
    table = Table(*headings, caption="in brackets: the clip itself; fast: in levels of 255")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        cells = [one_line(row.clip), one_line(row.network), str(row.frames)]
        for now, then in zip(row.output.warping, row.input.warping, strict=True):
            cells.append(_pair(now.squared, then.squared, times=1000))
        cells.append("-" if row.noise_gain is None else f"{row.noise_gain:.2f}")
        after, before = row.output.still, row.input.still
        cells.append("-" if not (after and before) else _pair(after.fast, before.fast))
        table.add_row(*cells)
    Console(width=120).print(table)


def _pair(after: float | None, before: float | None, times: float = 1) -> str:
    """Return "5.2 (0.4)", or a dash for what could not be measured."""
    if after is None or before is None:
        return "-"
    return f"{after * times:.3g} ({before * times:.3g})"
