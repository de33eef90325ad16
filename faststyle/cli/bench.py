"""`faststyle bench`: measured speed."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import (
    Engine,
    Json,
    Precision,
    Threads,
    VggWeights,
    announce_for,
    app,
    reports_errors,
    with_flags,
)

if TYPE_CHECKING:
    from faststyle.bench.serving import ServeRow
    from faststyle.bench.stylizing import StylizeBench
    from faststyle.bench.videos import VideoRow

bench_app = typer.Typer(
    help="Measure speed on this machine, beside a plain reference in the same run.",
    no_args_is_help=True,
)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def bench() -> None:
    """Measure speed on this machine, beside a plain reference in the same run."""


@bench_app.command("train")
@reports_errors
def bench_training(
    recipe: Annotated[
        str, typer.Option(help="smoke, quick, long, full, or a .toml file.")
    ] = "quick",
    batch_size: Annotated[int | None, typer.Option(help="Photos a step.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the training crops, in pixels.")
    ] = None,
    network: Annotated[
        str, typer.Option(help="Network of both, as in mobile-64; johnson is the paper's.")
    ] = "johnson",
    rounds: Annotated[int, typer.Option(help="Steps of each side that are timed.", min=1)] = 5,
    vgg_weights: VggWeights = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time a training step on the CPU, in images/s: ours, the recipe's, and the plain reference.

    Example: faststyle bench train --recipe quick --batch-size 4
    """
    from dataclasses import asdict

    from faststyle.bench.training import PAPER_NETWORK, bench_train
    from faststyle.devices import set_threads
    from faststyle.networks import parse_network
    from faststyle.perceptual.weights import find_weights
    from faststyle.training.recipe import load_recipe

    set_threads(threads)
    settings = load_recipe(recipe, [], {"batch_size": batch_size, "image_size": image_size})
    config = PAPER_NETWORK if network == "johnson" else parse_network(network) or {"name": network}
    result = asdict(bench_train(settings, find_weights(settings.vgg, vgg_weights), rounds, config))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for key, value in result.items():
        typer.echo(f"{key:26} {value:.3g}" if isinstance(value, float) else f"{key:26} {value}")


@bench_app.command("race")
@reports_errors
def bench_two_trainers(
    style: Annotated[
        Path, typer.Option("--style", help="The painting: an image file.", metavar="PAINTING")
    ],
    recipe: Annotated[
        str, typer.Option(help="smoke, quick, long, full, or a .toml file.")
    ] = "quick",
    photos: Annotated[str | None, typer.Option(help="As for faststyle train.")] = None,
    seconds: Annotated[float, typer.Option(help="Of training that ours gets.", min=1)] = 60.0,
    times: Annotated[
        float, typer.Option(help="As long the reference may train to get there.", min=1)
    ] = 10.0,
    vgg_weights: VggWeights = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train with our trainer and the plain reference in turns: how much sooner is ours as good?

    Example: faststyle bench race --style data/styles/nocturne.png
    """
    from dataclasses import asdict

    from faststyle.bench.race import bench_race
    from faststyle.devices import set_threads
    from faststyle.perceptual.weights import find_weights
    from faststyle.training.recipe import load_recipe

    set_threads(threads)
    settings = load_recipe(recipe, [], {"photos": photos})
    see = functools.partial(typer.echo, err=as_json)
    race = bench_race(
        style, settings, find_weights(settings.vgg, vgg_weights), seconds, times, see=see
    )
    if as_json:
        typer.echo(json.dumps(asdict(race)))
        return
    late = "never in its time" if race.reference is None else f"after {race.reference:.0f} s"
    more = "more than " if race.reference is None else ""
    typer.echo(
        f"total {race.target:.3f}: ours after {race.ours:.0f} s, reference {late}: "
        f"{more}{race.ratio:.1f} times"
    )


@bench_app.command("scale")
@reports_errors
def bench_processes(
    processes: Annotated[
        list[int] | None,
        typer.Option(help="Counts of processes, one thread each; default: 1, 2 and 4.", min=1),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="smoke, quick, long, full, or a .toml file.")
    ] = "quick",
    batch_size: Annotated[int | None, typer.Option(help="Photos a step and process.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the training crops, in pixels.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps that are timed.", min=1)] = 10,
    vgg_weights: VggWeights = None,
    as_json: Json = False,
) -> None:
    """Time training in 1, 2 and 4 processes on the CPU, what they exchange, and decoding.

    Example: faststyle bench scale --processes 1 --processes 2
    """
    from dataclasses import asdict

    from faststyle.bench.scale import bench_scale
    from faststyle.training.recipe import load_recipe

    settings = load_recipe(recipe, [], {"batch_size": batch_size, "image_size": image_size})
    result = bench_scale(settings, vgg_weights, processes or (1, 2, 4), steps)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(f"cores                {result.cores}")
    typer.echo(f"gradients            {result.gradient_bytes / 1e6:.2f} MB a step")
    typer.echo(f"decoding             {result.decoded_per_second:.0f} photos/s a core")
    typer.echo("processes  s/step  expected  exchange  images/s  efficiency  MB sent  on loopback")
    for row in result.rows:
        typer.echo(
            f"{row.processes:9}  {row.seconds:6.3f}  {row.expected_seconds:8.3f}  "
            f"{row.exchange_seconds:8.3f}  {row.images_per_second:8.2f}  {row.efficiency:10.2f}  "
            f"{row.sent_bytes / 1e6:7.2f}  {row.loopback_bytes / 1e6:11.2f}"
        )


@bench_app.command("stylize")
@reports_errors
def bench_engines(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoints, or networks as in mobile-64; default: mobile.", metavar="NETWORK..."
        ),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="HEIGHTxWIDTH in pixels, several times if wanted."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Frames of each side that are timed.", min=1)] = 5,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time a frame on the CPU by engine, precision and size.

    The reference is the paper's network in plain torch.

    Example: faststyle bench stylize mobile --size 480x848 --size 720x1280
    """
    from dataclasses import asdict

    from faststyle.bench.stylizing import LITE_MIN_SIDE, SIZES, bench_stylize
    from faststyle.checkpoint import find_checkpoint
    from faststyle.devices import set_threads
    from faststyle.networks import parse_network
    from faststyle.sizes import parse_size

    set_threads(threads)
    names = networks or ["mobile"]
    if len({Path(name).stem for name in names}) < len(names):
        raise typer.BadParameter("two networks of one name cannot be told apart; rename one")
    found = bench_stylize(
        {Path(name).stem: parse_network(name) or find_checkpoint(name) for name in names},
        [parse_size(size, LITE_MIN_SIDE) for size in sizes] if sizes else SIZES,
        rounds=rounds,
        announce=announce_for(bench_engines),
    )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        _print_engines(found)


def _print_engines(found: StylizeBench) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "network", "engine", "precision", "size", "ms", "images/s", "times as fast", "peak MiB"
    )
    for row in found.rows:
        speed = (
            f"{row.ms:.1f}",
            f"{row.images_per_second:.1f}",
            f"{row.ratio:.1f}",
            str(row.peak_rss_mb),
        )
        table.add_row(row.network, row.engine, row.precision, row.size, *speed)
    Console(width=120).print(table)
    versions = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    typer.echo(f"{versions}, {found.threads} threads")
    for line in found.left_out:
        typer.echo(f"left out: {with_flags(line, bench_engines)}")


@bench_app.command("video")
@reports_errors
def bench_videos(
    network: Annotated[
        str, typer.Argument(help="A checkpoint, or a network as in mobile-64.", metavar="NETWORK")
    ] = "mobile",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size", help="HEIGHTxWIDTH of the clip that is made, several times if wanted."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the clip that is made.", min=0.2)] = 5.0,
    clips: Annotated[
        list[Path] | None,
        typer.Option("--clip", help="A video of yours instead, several times if wanted."),
    ] = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time a video from file to file, on the CPU, and compare the output with the input.

    Example: faststyle bench video nocturne --size 480x848 --precision int8
    """
    from dataclasses import asdict

    from faststyle.bench.stylizing import LITE_MIN_SIDE
    from faststyle.bench.videos import SIZES, bench_video
    from faststyle.checkpoint import About
    from faststyle.engines.options import EngineOptions
    from faststyle.networks import build_network, parse_network
    from faststyle.sizes import parse_size
    from faststyle.stylize.blend import parse_style

    if clips and sizes:
        raise typer.BadParameter(
            "a clip of yours keeps its size; leave out --size, or leave out --clip",
            param_hint="--size",
        )
    config = parse_network(network)
    if config and precision == "int8":
        raise typer.BadParameter(
            "int8 is measured with a checkpoint, which it takes its ranges from",
            param_hint="--precision",
        )
    untrained = (build_network(config), About(config, {}, {}, "none", {})) if config else None
    rows = bench_video(
        untrained or parse_style(network)[0],
        [parse_size(size, LITE_MIN_SIDE) for size in sizes] if sizes else SIZES,
        seconds,
        clips or [],
        EngineOptions(engine, "cpu", precision, threads, convert=True),
        announce_for(bench_videos),
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        _print_video(row)


def _print_video(row: VideoRow) -> None:
    typer.echo(
        f"{row.engine}, {row.precision}, {row.size}, {row.megabits:.1f} Mbit/s: "
        f"{row.frames} of {row.frames_in} frames at {row.fps:.1f} a second from file to file; "
        f"the network alone {row.network_fps:.1f}"
    )
    times = "not compared" if row.off_ms is None else f"{row.off_ms:.2f} ms off at most"
    sound = "the same bytes" if row.same_sound else "converted"
    typer.echo(
        f"    times {times}, length {row.length_off_ms:.2f} ms off; "
        f"sound: {sound}, {row.sound_off_ms:.2f} ms off"
    )


@bench_app.command("slow")
@reports_errors
def bench_slow_path(
    size: Annotated[int, typer.Option(help="Side of the image, in pixels.", min=32)] = 512,
    vgg_weights: VggWeights = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time a step of the slow path, and measure its memory, in float32 on the CPU.

    Example: faststyle bench slow --size 1024
    """
    from dataclasses import asdict

    from faststyle.bench.slow import bench_slow
    from faststyle.devices import set_threads
    from faststyle.perceptual.weights import find_weights

    set_threads(threads)
    rows = bench_slow(find_weights("vgg16", vgg_weights), size)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        typer.echo(
            f"{row.optimizer:6} {row.size} px  {row.seconds:.2f} s a step  adds {row.added_mb} MiB"
        )


@bench_app.command("serve")
@reports_errors
def bench_service(
    network: Annotated[
        str, typer.Argument(help="A checkpoint, or a network as in mobile-64.", metavar="NETWORK")
    ] = "mobile",
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the photos, in pixels.")] = "256x256",
    requests: Annotated[int, typer.Option(help="Requests of each row.", min=10)] = 200,
    clients: Annotated[
        list[int] | None,
        typer.Option(help="Clients at once, several times if wanted; default: 1, 8, 64.", min=1),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="As for faststyle serve.", min=1)] = 8,
    engine: Engine = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure `faststyle serve` with clients on this machine: requests/s, latency, memory.

    Example: faststyle bench serve nocturne --requests 10000 --clients 8 --size 64x64
    """
    from dataclasses import asdict

    from faststyle.bench.serving import CLIENTS, bench_serve
    from faststyle.checkpoint import find_checkpoint
    from faststyle.networks import parse_network
    from faststyle.sizes import parse_size

    options = ["--max-batch", str(max_batch), "--engine", engine, "--precision", precision]
    options += ["--device", "cpu", *(["--threads", str(threads)] if threads is not None else [])]
    rows = bench_serve(
        parse_network(network) or find_checkpoint(network),
        parse_size(size, 1),
        requests,
        clients or CLIENTS,
        options,
        announce_for(bench_service),
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    _print_service(rows)


def _print_service(rows: list[ServeRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("clients", "requests", "size", "requests/s", "p50 ms", "p99 ms", "photos a batch"),
        *("refused", "MiB at 1/10", "MiB at the end"),
    )
    for row in rows:
        times = (f"{row.requests_per_second:.1f}", f"{row.p50_ms:.0f}", f"{row.p99_ms:.0f}")
        memory = (str(row.rss_mb[0]), str(row.rss_mb[-1]))
        table.add_row(
            *(str(row.clients), str(row.requests), row.size, *times),
            *(f"{row.batch:.1f}", str(row.refused), *memory),
        )
    Console(width=120).print(table)


@bench_app.command("photos")
@reports_errors
def bench_photo_sources(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="As --photos of faststyle train; default: photos made for it, in files, tars and "
            "parquet, on the disk and over HTTP.",
            metavar="SOURCE...",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Photos of each source.", min=1)] = 400,
    image_size: Annotated[
        int, typer.Option(help="Side of the training crops, in pixels.", min=32)
    ] = 224,
    as_json: Json = False,
) -> None:
    """Time reading, decoding and cropping photos on one core, from each source.

    Example: faststyle bench photos photos/ "https://example.org/photos-{000..127}.tar"
    """
    from contextlib import nullcontext
    from dataclasses import asdict

    from faststyle.bench.photos import bench_photos, made_and_served

    with nullcontext(sources) if sources else made_and_served(count) as found:
        rows = bench_photos(found, image_size, count)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        typer.echo(
            f"{row.photos_per_cpu_second:6.0f} photos a second of a core, "
            f"{row.photos_per_second:6.0f} with waiting, {row.peak_rss_mb:5} MiB  {row.source}"
        )
