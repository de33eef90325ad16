"""Train a network for one painting, or one for many: open all that a run needs, and run it."""

from __future__ import annotations

from pathlib import Path

from faststyle.devices import keep_freed_memory, set_threads
from faststyle.errors import RecipeError
from faststyle.files import output_error
from faststyle.perceptual.weights import find_weights
from faststyle.training.accelerators import open_accelerator, release_accelerator
from faststyle.training.painting import PaintingSet, read_paintings
from faststyle.training.photos import open_photos
from faststyle.training.recipe import Recipe
from faststyle.training.report import Result
from faststyle.training.run_files import (
    RunFiles,
    checkpoint_path,
    make_writable,
    may_replace,
    open_run,
    run_name,
)
from faststyle.training.start import check_start
from faststyle.training.teacher import open_teacher
from faststyle.training.trainer import Trainer


def train_style(
    style: str | Path,
    recipe: Recipe | None = None,
    *,
    name: str | None = None,
    outputs: str | Path = "outputs",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    vgg_weights: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = True,
) -> Result:
    """Train a network for the painting `style` and write checkpoints/NAME.safetensors.

    NAME is the painting's. A folder of paintings makes one network of all of them, a collection.
    Without a recipe it is "quick", or with `resume` that of the run. Progress is kept in
    `outputs`/NAME. A checkpoint or a run that is there is only replaced with `overwrite`. In a
    program that torchrun or accelerate launch started several times, all of
    them call this, and the first one writes.

    Raises: ImageError, PhotosError, WeightsError, RecipeError, StateError, OutputError,
    DeviceError, TrainingError, and Interrupted after SIGINT or SIGTERM, when the state was saved.

    Example:
        >>> train_style("data/styles/nocturne.png", load_recipe("smoke")).checkpoint
        PosixPath('checkpoints/nocturne.safetensors')
    """
    name = run_name(name, style)
    paintings = read_paintings(style)
    files = RunFiles(Path(outputs) / name, checkpoint_path(name, checkpoint))
    saved, recipe = open_run(files, recipe, paintings.sha256, resume, overwrite)
    replaces = overwrite or (resume and may_replace(files))
    check_collection(recipe, paintings)
    check_start(recipe.init, paintings.network_config(recipe.network))
    teacher = open_teacher(recipe.teacher, [painting.name for painting in paintings])
    source = open_photos(recipe.photos, recipe.seed)
    set_threads(threads)
    keep_freed_memory()
    accelerator = open_accelerator(recipe, device)
    try:
        with accelerator.main_process_first():  # one download for all processes of a machine
            weights = find_weights(recipe.vgg, Path(vgg_weights) if vgg_weights else None)
            judge_weights = weights if recipe.vgg == "vgg16" else find_weights("vgg16")
        if accelerator.is_main_process:
            make_writable(files, saved is None, recipe.network)
        accelerator.wait_for_everyone()
        trainer = Trainer(
            accelerator, files, recipe, paintings, source, weights, judge_weights, quiet, teacher
        )
        return trainer.run_to_end(saved, replaces)
    except OSError as error:  # a full disk is no bug
        raise output_error(files.folder, error) from error
    finally:
        if accelerator.num_processes == 1:
            release_accelerator()


def check_collection(recipe: Recipe, paintings: PaintingSet) -> None:
    """Raise RecipeError where a recipe does not suit one painting, or a folder of them."""
    if recipe.name == "collection" and not paintings.is_collection:
        raise RecipeError("the recipe collection needs a folder of paintings: `style` FOLDER")
