"""The files of a run: their places, whether they can be written, and a state to go on from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from faststyle.checkpoint import SUFFIX
from faststyle.errors import OutputError, StateError
from faststyle.files import output_error
from faststyle.training.recipe import Recipe, load_recipe, recipe_from_dict
from faststyle.training.state import SavedState, newest_state


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    They are outputs/NAME/{preview.png, strips/, tensorboard/, state/, run.json} and a checkpoint.
    """

    folder: Path
    checkpoint: Path

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


def checkpoint_path(name: str, given: str | Path | None) -> Path:
    """Return the file that training writes: the one given, else checkpoints/NAME.safetensors.

    Raises: OutputError.
    """
    path = Path("checkpoints") / f"{name}{SUFFIX}" if given is None else Path(given)
    if path.suffix != SUFFIX or path.is_dir():
        raise OutputError(f"`output` {path}: a checkpoint is a file that ends in {SUFFIX}")
    return path


def open_run(
    files: RunFiles, recipe: Recipe | None, painting: str, resume: bool, overwrite: bool
) -> tuple[SavedState | None, Recipe]:
    """Return the state to go on from, if any, and the recipe.

    The recipe is the one given, else that of the state, else quick. `painting` is its sha256.
    Raises: StateError when an unfinished run is in the way, or is not the one to resume.
    """
    state = newest_state(files.state) if files.state.is_dir() and not overwrite else None
    if not resume:
        if state is not None:
            raise StateError(
                f"{files.folder} holds an unfinished run (step {state.step}): go on with `resume`, "
                "or start again with `overwrite`"
            )
        return None, recipe or load_recipe("quick")
    if state is None:
        raise StateError(f"nothing to resume in {files.state}; leave `resume` out to start")
    if state.extra["painting"] != painting:
        raise StateError(
            f"{files.folder} was started with another painting; use its painting, or `overwrite`"
        )
    stored = recipe_from_dict(state.extra["recipe"])
    if recipe is not None and recipe != stored:
        mine = recipe.to_dict()
        theirs = stored.to_dict()
        key = next(k for k in mine if mine[k] != theirs[k])
        raise StateError(
            f"{files.folder} was started with {key} = {theirs[key]!r}, now it is {mine[key]!r}; "
            "resume with what it was started with, or `overwrite`"
        )
    return state, stored


def make_writable(files: RunFiles, fresh: bool) -> None:
    """Make the folders of a run, and check now, not hours later, that its files can be written.

    Raises: OutputError.
    """
    if fresh:
        for leftover in (files.state, files.strips, files.tensorboard):
            shutil.rmtree(leftover, ignore_errors=True)
    for target in (files.json, files.checkpoint):
        probe = target.with_name(f".{target.name}.probe")
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise output_error(target, error) from error
