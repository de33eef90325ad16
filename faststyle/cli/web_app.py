"""`faststyle app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faststyle.cli.common import (
    LIMITS,
    Address,
    Device,
    Engine,
    Hosts,
    MaxBytes,
    MaxPixels,
    Port,
    Precision,
    Threads,
    VggWeights,
    announce_for,
    reports_errors,
)
from faststyle.cli.common import app as program


@program.command()
@reports_errors
def app(
    address: Address = "127.0.0.1",
    port: Port = 7860,
    hosts: Hosts = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Whether the page trains new styles.")
    ] = True,
    share: Annotated[
        bool, typer.Option("--share", help="Open a public address, through Gradio's servers.")
    ] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Offer the functions as tools of language models too.")
    ] = False,
    max_bytes: MaxBytes = 20 * 2**20,
    max_video_bytes: Annotated[
        int, typer.Option(help="Bytes of a video's file.", rich_help_panel=LIMITS)
    ] = 200 * 2**20,
    max_pixels: MaxPixels = 16_000_000,
    queue: Annotated[
        int, typer.Option(help="Trainings that may wait.", rich_help_panel=LIMITS)
    ] = 8,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a picture may take.", rich_help_panel=LIMITS)
    ] = 120.0,
    vgg_weights: VggWeights = None,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Open a page in the browser that stylizes, trains and compares.

    It is for this machine alone unless --address or --share says otherwise. Ctrl-C or SIGTERM end
    it; a training that runs saves its state.

    Example: faststyle app
    """
    from faststyle.app.options import AppOptions
    from faststyle.app.server import is_public, run_app
    from faststyle.engines.options import EngineOptions

    train_args = ["--device", device]
    train_args += [] if threads is None else ["--threads", str(threads)]
    train_args += [] if vgg_weights is None else ["--vgg-weights", str(vgg_weights)]
    options = AppOptions(
        address,
        port,
        hosts or (),
        EngineOptions(engine, device, precision, threads),
        max_bytes,
        max_video_bytes,
        max_pixels,
        timeout,
        queue,
        train,
        train_args=train_args,
        vgg_weights=Path(vgg_weights) if vgg_weights else None,
        share=share,
        mcp=mcp,
    )
    announce = announce_for(app)

    def listening(url: str) -> None:
        announce(f"open {url}")
        if is_public(options):
            announce("note: everyone who reaches that address can use it: there is no password")

    run_app(options, announce, listening)
    announce("stopped")
