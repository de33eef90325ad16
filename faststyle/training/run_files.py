"""The files of a run: their places, whether they can be written, and a state to go on from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from faststyle.checkpoint import SUFFIX
from faststyle.errors import OutputError, StateError
from faststyle.files import check_place, output_error
from faststyle.networks import build_network
from faststyle.training.recipe import Recipe, load_recipe, recipe_from_dict
from faststyle.training.state import SavedState, newest_state

FLOAT = 4  # bytes
# Settings of a recipe that a run may change when it goes on: how a machine takes its steps.
PER_PROCESS = ("batch_size", "accumulate", "workers")
LONGEST_NAME = 200  # bytes: file systems take 255, and suffixes come on top


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    They are outputs/NAME/{preview.png, strips/, tensorboard/, state/, run.json} and a checkpoint.
    """

    folder: Path
    checkpoint: Path

    @property
    def leftovers(self) -> tuple[Path, ...]:
        """Return the folders of an earlier run that a new one removes."""
        return (self.state, self.strips, self.tensorboard)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def strips(self) -> Path:
        return self.folder / "strips"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def preview(self) -> Path:
        return self.folder / "preview.png"

    @property
    def newest(self) -> Path:
        """Return the file of the newest weights of a collection, to be used while it trains."""
        return self.folder / f"newest{SUFFIX}"

    @property
    def json(self) -> Path:
        return self.folder / "run.json"

    def about(self) -> dict[str, Any]:
        """Return the content of run.json; nothing where there is none, or it is damaged."""
        try:
            about = json.loads(self.json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}


def run_name(name: str | None, style: str | Path) -> str:
    """Return the name of a run: the one given, else that of the painting.

    It becomes the name of a folder and of a file, so it must not lead elsewhere. Raises:
    OutputError.
    """
    # A folder may be given as ".", which has no name of its own.
    found = Path(os.path.abspath(style)).stem if name is None else name
    too_long = len(os.fsencode(found)) > LONGEST_NAME
    if found in ("", ".", "..") or too_long or any(bad in found for bad in "/\\\0"):
        raise OutputError(
            f"`name` {found!r}: a name is that of one file, without a folder"
            f"{f', of {LONGEST_NAME} bytes at most' if too_long else ''}; "
            "choose places with `output`"
        )
    return found


def checkpoint_path(name: str, given: str | Path | None) -> Path:
    """Return the file that training writes: the one given, else checkpoints/NAME.safetensors.

    Raises: OutputError.
    """
    path = Path("checkpoints") / f"{name}{SUFFIX}" if given is None else Path(given)
    if path.suffix != SUFFIX or os.path.isdir(path):  # not Path.is_dir: see `check_writable`
        raise OutputError(f"`output` {path}: a checkpoint is a file that ends in {SUFFIX}")
    return path


def open_run(
    files: RunFiles, recipe: Recipe | None, painting: str, resume: bool, overwrite: bool
) -> tuple[SavedState | None, Recipe]:
    """Return the state to go on from, if any, and the recipe.

    The recipe is the one given, else that of the state, else quick. `painting` is its sha256. With
    `resume`, `overwrite` replaces the checkpoint, not the state. Raises: StateError when a run is
    in the way, or is not the one to resume; OutputError when a checkpoint is in the way.
    """
    drop = overwrite and not resume
    state = newest_state(files.state) if files.state.is_dir() and not drop else None
    if not resume:
        if state is not None:
            raise StateError(
                f"{files.folder} holds an unfinished run (step {state.step}): go on with `resume`, "
                "or start again with `overwrite`"
            )
        if not overwrite:
            _check_nothing_is_replaced(files)
        return None, recipe or load_recipe("quick")
    if state is None:
        raise StateError(_nothing_to_resume(files))
    if state.extra["painting"] != painting:
        raise StateError(
            f"{files.folder} was started with another painting; use its painting, or `overwrite`"
        )
    stored = recipe_from_dict(state.extra["recipe"])
    mine = (recipe or stored).to_dict()
    theirs = stored.to_dict()
    for key in PER_PROCESS:  # another machine may have other processes, for the same steps
        theirs[key] = mine[key]
    if mine != theirs:
        key = next(k for k in mine if mine[k] != theirs[k])
        raise StateError(
            f"{files.folder} was started with {key} = {theirs[key]!r}, now it is {mine[key]!r}; "
            "resume with what it was started with, or `overwrite`"
        )
    if not overwrite and not may_replace(files):
        check_checkpoint_is_free(files)
    return state, recipe or stored


def may_replace(files: RunFiles) -> bool:
    """Return whether the run in the folder may write over the checkpoint that is there.

    It may if it was started with `overwrite`, or has written that checkpoint itself.
    """
    about = files.about()
    return bool(about.get("may_replace")) and about.get("checkpoint") == str(files.checkpoint)


def check_checkpoint_is_free(files: RunFiles) -> None:
    """Raise OutputError where a file stands in the place of the checkpoint."""
    if os.path.exists(files.checkpoint):  # not Path.exists: it raises for a name too long
        named_by_run = files.checkpoint.stem == files.folder.name
        field = "name" if named_by_run else "output"
        raise OutputError(
            f"{files.checkpoint} is there already: replace it with `overwrite`, "
            f"or choose another `{field}`"
        )


def _check_nothing_is_replaced(files: RunFiles) -> None:
    """Raise OutputError or StateError where a checkpoint or a finished run is in the way."""
    check_checkpoint_is_free(files)
    about = files.about()
    if about.get("status") == "finished":
        raise StateError(
            f"{files.folder} holds a finished run of {about.get('step')} steps: replace it with "
            "`overwrite`, or choose another `name`"
        )


def _nothing_to_resume(files: RunFiles) -> str:
    about = files.about()
    if about.get("status") != "finished":
        return f"nothing to resume in {files.state}; leave `resume` out to start"
    return (
        f"nothing to resume: {files.folder} finished after {about.get('step')} steps, and wrote "
        f"{about.get('checkpoint')}; start again with `overwrite`, or choose another `name`"
    )


def make_writable(files: RunFiles, fresh: bool, network: Mapping[str, Any]) -> None:
    """Make the folders of a run, and check now, not hours later, that its files can be written.

    A `fresh` run then removes what an earlier one left. Raises: OutputError.
    """
    for target in (files.json, files.checkpoint):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(target, error) from error
        check_place(target)
    leftovers = files.leftovers if fresh else ()
    _check_space(files, network, leftovers)
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)


def _check_space(files: RunFiles, network: Mapping[str, Any], leftovers: Iterable[Path]) -> None:
    """Raise OutputError where a disk cannot even hold one state, or the checkpoint.

    `network` is its configuration. A state holds the weights and at least as many moments.
    """
    with torch.device("meta"):
        weights = FLOAT * sum(p.numel() for p in build_network(network).parameters())
    freed = sum(p.stat().st_size for folder in leftovers for p in folder.rglob("*") if p.is_file())
    for place, needed, more in (
        (files.folder, 2 * weights, freed),
        (files.checkpoint.parent, weights, 0),
    ):
        free = shutil.disk_usage(place).free + more
        if free < needed:
            raise OutputError(
                f"{place}: {needed / 1e6:.1f} MB or more are needed, {free / 1e6:.1f} MB are free; "
                "free some space or choose another place"
            )
