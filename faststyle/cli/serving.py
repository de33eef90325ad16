"""`faststyle serve`."""

from __future__ import annotations

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
    announce_for,
    app,
    reports_errors,
)


@app.command()
@reports_errors
def serve(
    address: Address = "127.0.0.1",
    port: Port = 8000,
    hosts: Hosts = None,
    warm: Annotated[
        list[str] | None,
        typer.Option(
            "--warm",
            help="A style that is loaded, and converted for the fastest engine, before requests "
            "are taken.",
            metavar="NAME",
        ),
    ] = None,
    styles: Annotated[
        int, typer.Option(help="Styles that are kept loaded.", rich_help_panel=LIMITS)
    ] = 4,
    max_bytes: MaxBytes = 20 * 2**20,
    max_pixels: MaxPixels = 16_000_000,
    queue: Annotated[
        int, typer.Option(help="Requests at once; more are told to wait.", rich_help_panel=LIMITS)
    ] = 64,
    max_batch: Annotated[
        int, typer.Option(help="Photos in one run of a network.", rich_help_panel=LIMITS)
    ] = 8,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take.", rich_help_panel=LIMITS)
    ] = 60.0,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Serve stylized pictures over HTTP, to this machine alone unless --address says otherwise.

    Ctrl-C or SIGTERM finish the requests in flight, and end it.

    Example: faststyle serve --warm the_scream
    """
    from faststyle.engines.options import EngineOptions
    from faststyle.serve.options import ServeOptions
    from faststyle.serve.server import is_public, run_server

    options = ServeOptions(
        address,
        port,
        hosts or (),
        EngineOptions(engine, device, precision, threads),
        max_bytes,
        max_pixels,
        queue,
        max_batch,
        timeout,
        styles,
        warm or (),
    )
    announce = announce_for(serve)

    def listening(url: str) -> None:
        announce(f"listening at {url}")
        if is_public(options):
            announce(
                "note: everyone who reaches that address can use it: "
                "there is no password and no encryption"
            )

    run_server(options, announce, listening)
    announce("stopped")
