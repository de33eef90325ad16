"""Make the networks that come with the project: train, judge, measure, put into the gallery.

    scripts/make_gallery --paintings paintings/ --photos photos/ --judged-on held_out/ \
        --photos-are "1,291 photos of BSDS500 and of ImageNet's classes (research use)" \
        --license "research use"

The gallery's paintings.toml must have an entry for each painting (faststyle/titles.py). `--networks
mobile,small` makes small networks too, which copy the mobile ones (recipe distill). The same
command goes on where it was stopped. --cards only writes README.md anew. What a network is judged
by is what is shipped: half precision.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess  # nosec B404
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from gallery_card import write_card

from faststyle import checkpoint
from faststyle.checkpoint import SUFFIX, load_checkpoint, save_checkpoint, with_photos
from faststyle.cli.common import (
    Device,
    Threads,
    VggWeights,
    announce_for,
    reports_errors,
    run_alone,
)
from faststyle.compare.flicker import compare_flicker
from faststyle.compare.scores import judge_results
from faststyle.compare.slow_vs_fast import compare, list_photos
from faststyle.devices import set_threads
from faststyle.engines.options import EngineOptions
from faststyle.errors import (
    CheckpointError,
    DeviceError,
    FaststyleError,
    Interrupted,
    RecipeError,
)
from faststyle.extras import require
from faststyle.files import sha256, write_bytes
from faststyle.flow import EXTRA
from faststyle.networks import parse_network
from faststyle.titles import TABLE, read_titles
from faststyle.training.each import is_finished, name_paintings
from faststyle.training.painting import list_paintings
from faststyle.training.recipe import Recipe, load_recipe
from faststyle.training.run_files import RunFiles
from faststyle.training.start import BASE, SCRATCH, check_start
from faststyle.training.state import newest_state
from faststyle.training.train import train_style

MOVING = Path(__file__).parents[1] / "tests" / "moving.py"  # makes the clips for flicker
# Alarms: photos have about 2, 1, 1 and 0, published networks a grid of 30 to 150. Look at the
# pictures.
MOST = {"grid": 60.0, "stripes": 30.0, "border": 1.5, "edges": 0.5}
SIDE = 256  # pixels, of the photos on which the slow path is compared
SMALL = "small"  # networks of the recipe distill; their teachers are the mobile ones
TEACHER = "mobile"
BEFORE = "; before: "  # between the photos of a network and those of its base, in a checkpoint


@dataclass(frozen=True)
class Settings:
    """What all networks of the gallery share. `clips` is empty where flicker is not measured."""

    photos_are: str
    license: str
    judged_on: Path
    gallery: Path
    work: Path
    compare_photos: int
    compare_steps: int
    clips: Sequence[Path]
    vgg_weights: Path | None
    device: str
    threads: int | None
    overwrite: bool


@reports_errors
def make_gallery(
    paintings: Annotated[
        Path | None, typer.Option(help="A folder of paintings.", metavar="FOLDER")
    ] = None,
    photos: Annotated[
        str | None, typer.Option(help="What to train on, as in faststyle train.", metavar="FOLDER")
    ] = None,
    judged_on: Annotated[
        Path | None, typer.Option(help="Photos that are not trained on.", metavar="FOLDER")
    ] = None,
    photos_are: Annotated[
        str | None,
        typer.Option(help="What the photos are, and what they may be used for.", metavar="TEXT"),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="The terms of the photos; other terms are kept.", metavar="TEXT"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a .toml file.")] = "long",
    seed: Annotated[int, typer.Option(help="Seed of photos and weights.")] = 0,
    networks: Annotated[
        str, typer.Option(help="One or more of mobile, johnson, small: mobile,small.")
    ] = "mobile",
    gallery: Annotated[
        Path | None, typer.Option(help="Where networks go; default: the package.", metavar="FOLDER")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Runs, and what was measured.", metavar="FOLDER")
    ] = Path("outputs/gallery"),
    compare_photos: Annotated[
        int, typer.Option(help="Photos on which the slow path is run; 0: none.", min=0)
    ] = 4,
    compare_steps: Annotated[int, typer.Option(help="Steps of the slow path.", min=1)] = 300,
    cards: Annotated[bool, typer.Option("--cards", help="Only write README.md anew.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train all of them again from the start.")
    ] = False,
    vgg_weights: VggWeights = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train the gallery's networks, judge them, and write them and their README.md.

    Example: scripts/make_gallery --paintings paintings/ --photos photos/ --judged-on held_out/
    --photos-are "1,291 photos of BSDS500 (research use)" --license "research use"
    """
    announce = announce_for(make_gallery)
    gallery = gallery or checkpoint.GALLERY
    if cards:
        typer.echo(f"wrote {write_card(gallery)}")
        return
    if not (paintings and photos and judged_on and photos_are and license):
        raise typer.BadParameter(
            "--paintings, --photos, --judged-on, --photos-are and --license are needed, or --cards"
        )
    set_threads(threads)
    list_photos(judged_on, option="`judged_on` ")  # refuses a folder without any, hours before
    if judged_on.resolve().is_relative_to(Path(photos).resolve()):
        raise RecipeError(f"`judged_on` {judged_on} is in {photos}, and would be trained on")
    recipes = _recipes(recipe, networks, {"photos": photos, "seed": seed}, announce)
    titles = read_titles(gallery).paintings
    settings = Settings(
        photos_are=photos_are,
        license=license,
        judged_on=judged_on,
        gallery=gallery,
        work=work,
        compare_photos=compare_photos,
        compare_steps=compare_steps,
        clips=_clips(work / "clips", announce),
        vgg_weights=vgg_weights,
        device=device,
        threads=threads,
        overwrite=overwrite,
    )
    failed = []
    for name, painting in name_paintings(list_paintings(paintings)).items():
        for network, wanted in recipes.items():
            style = f"{name}-{network}"
            try:
                if name not in titles:
                    raise RecipeError(f"{gallery / TABLE} has no entry [{name}]; add one")
                if network == SMALL:
                    teacher = gallery / f"{name}-{TEACHER}{SUFFIX}"
                    wanted = dataclasses.replace(wanted, teacher=str(teacher))
                else:
                    loss = dataclasses.replace(wanted.loss, strength=titles[name].strength)
                    wanted = dataclasses.replace(wanted, loss=loss)
                announce(f"{style}: begins")
                target = _make(style, painting, wanted, settings)
                write_card(gallery)
            except Interrupted:
                raise
            except FaststyleError as error:
                failed.append(f"failed {style}: {error}")
                announce(failed[-1])
                continue
            typer.echo(f"{style}: wrote {target}")
            if titles[name].notes.get(network):
                announce(f"note: {style}: is what {gallery / TABLE} notes still true of it?")
    if failed:
        announce(f"{len(failed)} failed:")
        for line in failed:
            announce(line)
        raise typer.Exit(1)


def _recipes(
    name: str, networks: str, flags: Mapping[str, Any], announce: Callable[[str], None]
) -> dict[str, Recipe]:
    """Return the recipe for each network, by the network's name. Raises: RecipeError."""
    found: dict[str, Recipe] = {}
    for text in networks.split(","):
        if text.strip() == SMALL:
            found[SMALL] = load_recipe("distill", (), {**flags, "teacher": TEACHER})
            continue
        config = parse_network(text.strip()) or {"name": text.strip()}
        recipe = load_recipe(name, (), flags)
        if config != {"name": recipe.network.get("name")}:
            recipe = load_recipe(name, (), {**flags, "network": config})
        try:
            check_start(recipe.init, recipe.network)
        except RecipeError:
            if recipe.init != BASE:
                raise
            copying = load_recipe("full").copying
            # Two halves from scratch have no weights in common, so there is no mean of them.
            recipe = dataclasses.replace(recipe, init=SCRATCH, copying=copying, spread=0.0)
            announce(f"note: the base is of another network: {text} begins from scratch")
        if config["name"] in found:
            raise RecipeError(f"`networks` {networks}: one {config['name']} only, for its name")
        found[config["name"]] = recipe
    return found


def _make(style: str, painting: Path, recipe: Recipe, settings: Settings) -> Path:
    """Train, measure and ship a network; what is done already is not done again.

    Raises: the errors of training and measuring; CheckpointError for one with a fault.
    """
    files = RunFiles(settings.work / style, settings.work / style / f"trained{SUFFIX}")
    _train(style, painting, recipe, files, settings)
    network, about = load_checkpoint(files.checkpoint)
    run = files.about()
    # The folder of the photos is a place on this machine. A file that a network began from is no
    # base of the package yet.
    about = dataclasses.replace(
        about,
        # The base saw photos before; the same ones are named once.
        photos=BEFORE.join(dict.fromkeys([settings.photos_are, *about.photos.split(BEFORE)[1:]])),
        license=with_photos(about, settings.license),
        recipe={
            **about.recipe,
            "photos": settings.photos_are,
            "init": Path(recipe.init).stem,
            "teacher": Path(recipe.teacher).stem,
            "abstraction": recipe.abstraction,
        },
        scores={key: about.scores[key] for key in ("content_rel", "style_rel")},
        measured={key: run[key] for key in ("seconds", "machine") if key in run},
    )
    # It has the name that it gets in the gallery: comparisons are labelled with it.
    half = files.folder / f"{style}{SUFFIX}"
    save_checkpoint(half, network, about, torch.float16)
    found = _measure(half, files.checkpoint, painting, about.abstraction, settings)
    scores = found["scores"]
    bad = [f"{key} {scores[key]:.2f} of {most}" for key, most in MOST.items() if scores[key] > most]
    if bad:
        raise CheckpointError(f"not shipped: {', '.join(bad)}; look at pictures of {half}")
    more = {key: found[key] for key in ("equal_step", "flicker") if found[key]}
    about = dataclasses.replace(
        about, scores={**about.scores, **scores}, measured={**about.measured, **more}
    )
    target = settings.gallery / half.name
    save_checkpoint(target, network, about, torch.float16)
    return target


def _train(style: str, painting: Path, recipe: Recipe, files: RunFiles, settings: Settings) -> None:
    """Train a network, or go on with it; one that is finished is left alone."""
    again = settings.overwrite
    if not again and is_finished(files, painting, recipe):
        return
    going_on = not again and files.state.is_dir() and newest_state(files.state) is not None
    train_style(
        painting,
        recipe,
        name=style,
        outputs=settings.work,
        checkpoint=files.checkpoint,
        resume=going_on,
        overwrite=again,
        vgg_weights=settings.vgg_weights,
        device=settings.device,
        threads=settings.threads,
        quiet=False,
    )


def _measure(
    half: Path, trained: Path, painting: Path, abstraction: float, settings: Settings
) -> dict[str, Any]:
    """Return scores, flicker and equal step of a network, measured now or by an earlier call.

    `trained` is the file of the training, which is written once; `abstraction` is how its photos
    are painted.
    """
    judged = list_photos(settings.judged_on)
    parts = [
        *(sha256(file) for file in (trained, painting, *judged, *settings.clips)),
        abstraction,
        settings.compare_photos,
        settings.compare_steps,
        settings.vgg_weights and sha256(settings.vgg_weights),
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    kept = half.with_name("measured.json")
    try:
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        if found["key"] == key:
            return found
    except (OSError, ValueError, KeyError):  # not measured yet
        pass
    scores, _ = judge_results(
        half,
        painting,
        settings.judged_on,
        vgg_weights=settings.vgg_weights,
        device=settings.device,
    )
    found = {
        "key": key,
        "scores": asdict(scores),
        "flicker": _flicker(half, settings),
        "equal_step": _equal_step(half, painting, settings),
    }
    write_bytes(kept, json.dumps(found, indent=1).encode())
    return found


def _flicker(half: Path, settings: Settings) -> dict[str, Any]:
    """Return the means over clips of the warping error between frames, and the gain of noise."""
    if not settings.clips:
        return {}
    report = compare_flicker(
        [str(half)],
        settings.clips,
        half.with_name("flicker"),
        engine=EngineOptions("torch", settings.device, "float32", settings.threads),
        overwrite=True,
        quiet=False,
    )
    pairs = [(row.output.warping[0].squared, row.input.warping[0].squared) for row in report.rows]
    known = [(output, clip) for output, clip in pairs if output is not None and clip is not None]
    gains = [row.noise_gain for row in report.rows if row.noise_gain is not None]
    return {
        "clips": len(known),
        "error": fmean(output for output, _ in known),
        "error_of_clips": fmean(clip for _, clip in known),
        "noise_gain": fmean(gains) if gains else None,
    }


def _equal_step(half: Path, painting: Path, settings: Settings) -> dict[str, Any]:
    """Return after how many steps from the photo the slow path is as good, as `compare` has it."""
    if settings.compare_photos == 0:
        return {}
    comparison = compare(
        painting,
        [half],
        settings.judged_on,
        sizes=(SIDE,),
        steps=settings.compare_steps,
        limit=settings.compare_photos,
        vgg_weights=settings.vgg_weights,
        device=settings.device,
        quiet=False,
    )
    summary = comparison.summaries[0]
    return {
        "step": summary.equal_step["content"],
        "steps": settings.compare_steps,
        "photos": summary.photos,
        "reached": summary.reached["content"],
        "start_as_good": summary.start_as_good["content"],
    }


def _clips(folder: Path, announce: Callable[[str], None]) -> list[Path]:
    """Return the clips whose motion is known, made now where they are not there yet.

    None where packages for flicker are missing, which is said.
    """
    try:
        require("av", "cv2", "matplotlib", "scipy", extra=EXTRA)
    except DeviceError as error:
        announce(f"flicker is not measured: {error}")
        return []
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as whole:
            made = Path(whole) / "clips"
            command = [sys.executable, str(MOVING), str(made)]
            subprocess.run(command, check=True)  # nosec B603
            made.rename(folder)
    return sorted(folder.glob("*.mkv"))


if __name__ == "__main__":
    run_alone(make_gallery)
