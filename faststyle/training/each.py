"""Many paintings in one command, a network of its own for each: `--each`.

A process trains a few networks at once, in turns on the same photos: these are decoded once, and
their features are computed once. Processes that torchrun started share out the paintings, and each
trains its own alone.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from faststyle.devices import keep_freed_memory, set_threads
from faststyle.errors import (
    DeviceError,
    FaststyleError,
    ImageError,
    Interrupted,
    PhotosError,
    RecipeError,
    StateError,
)
from faststyle.files import sha256
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.vgg import Feats
from faststyle.perceptual.weights import VGGWeights, find_weights
from faststyle.progress import StepProgress
from faststyle.signals import noted_signals
from faststyle.training.accelerators import open_accelerator, release_accelerator
from faststyle.training.painting import PaintingSet, list_paintings, read_painting
from faststyle.training.photos import Batch, PhotoSource, open_photos
from faststyle.training.recipe import Recipe, load_recipe, recipe_from_dict
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
from faststyle.training.state import SavedState, newest_state
from faststyle.training.teacher import check_teacher, open_teacher
from faststyle.training.trainer import Trainer, as_floats

AT_ONCE = 4  # networks that take turns in a process
LOOK_EVERY = 0.5  # seconds between looks whether the other processes have ended
# Environment variables by which Accelerate would make one run of several processes.
KEY = "faststyle-each/"
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class EachResult:
    """The results of many paintings, each with the name of its style.

    `failed` has the reasons of those that failed, `finished` those that an earlier run had
    finished.
    """

    trained: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return the number of paintings that are done with."""
        return len(self.trained) + len(self.failed) + len(self.finished)


@dataclass
class Member:
    """A network among those that take turns: its trainer, and a state to go on from, if any."""

    name: str
    trainer: Trainer
    saved: SavedState | None


class SharedTargets:
    """The features of the photos of a batch, computed for the first network that asks."""

    def __init__(self, loss: PerceptualLoss) -> None:
        self.loss = loss
        self.found: Feats | None = None

    def __call__(self, photos: Tensor, step: int) -> Feats:
        """Return the features; until `forget`, all photos are taken for the same."""
        if self.found is None:
            self.found = self.loss.targets(photos)
        return self.found

    def forget(self) -> None:
        """Begin a new batch."""
        self.found = None


def train_each(
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    outputs: str | Path = "outputs",
    resume: bool = False,
    overwrite: bool = False,
    vgg_weights: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    at_once: int = AT_ONCE,
    quiet: bool = True,
) -> EachResult | None:
    """Train a network for each painting of a folder, as `train_style` does for one.

    Each has the name of its file. A painting that fails does not stop the others. With `resume`,
    those that are finished are left alone, and the others go on or begin. Of several processes the
    first one returns the results of all, and the others return None.

    Raises: ImageError where the folder holds no image file, PhotosError, WeightsError, RecipeError,
    StateError, DeviceError, and Interrupted after SIGINT or SIGTERM, when the states were saved.
    """
    if at_once < 1:
        raise RecipeError(f"`at_once` must be 1 or more, got {at_once}")
    named = name_paintings(list_paintings(folder))
    processes = Processes()
    files = {
        name: RunFiles(Path(outputs) / name, checkpoint_path(name, None)) for name in sorted(named)
    }
    recipe = recipe or (_recipe_of_runs(files.values()) if resume else load_recipe("quick"))
    if recipe.name == "collection":
        raise RecipeError("the recipe collection is one network of all paintings: leave out `each`")
    check_start(recipe.init, recipe.network)
    check_teacher(recipe.teacher, len(named))
    source = open_photos(recipe.photos, recipe.seed)
    set_threads(threads)
    keep_freed_memory()
    weights = find_weights(recipe.vgg, Path(vgg_weights) if vgg_weights else None)
    job = Job(recipe, source, weights, device, resume, overwrite, processes.quiet(quiet))
    mine = sorted(named)[processes.rank :: processes.count]
    members = job.members((name, named[name], files[name]) for name in mine)
    try:
        while group := list(islice(members, at_once)):
            stopped = job.train(group)
            release_accelerator()
            if stopped and job.result.count < len(mine):
                raise Interrupted(
                    f"stopped after {job.result.count} of {len(mine)} paintings; go on with the "
                    "same command and `resume`",
                    stopped,
                )
    finally:
        release_accelerator()
    return processes.gather(job.result)


class Job:
    """The work of one process: groups of networks, and their results."""

    def __init__(
        self,
        recipe: Recipe,
        source: PhotoSource,
        weights: VGGWeights,
        device: str,
        resume: bool,
        overwrite: bool,
        quiet: bool,
    ) -> None:
        self.recipe = recipe
        self.source = source
        self.weights = weights
        self.judge_weights = weights if recipe.vgg == "vgg16" else find_weights("vgg16")
        self.device = device
        self.resume = resume
        self.overwrite = overwrite
        self.quiet = quiet
        self.result = EachResult()

    def members(self, named: Iterator[tuple[str, Path, RunFiles]]) -> Iterator[Member]:
        """Yield the networks that are to be trained; those that cannot be are listed."""
        for name, path, files in named:
            try:
                if self.resume and is_finished(files, path, self.recipe):
                    self.result.finished.append(name)
                    continue
                yield self._open(name, path, files)
            except FaststyleError as error:
                self._fail(name, error)

    def _open(self, name: str, path: Path, files: RunFiles) -> Member:
        run_name(name, path)  # names that are too long
        paintings = PaintingSet((read_painting(path),))
        going_on = self.resume and files.state.is_dir() and newest_state(files.state) is not None
        teacher = open_teacher(self.recipe.teacher, [painting.name for painting in paintings])
        saved, _ = open_run(files, self.recipe, paintings.sha256, going_on, self.overwrite)
        make_writable(files, saved is None, self.recipe.network)
        accelerator = open_accelerator(self.recipe, self.device)
        if accelerator.num_processes > 1:
            raise DeviceError("`each`: several processes are started with torchrun")
        parts = (self.recipe, paintings, self.source, self.weights, self.judge_weights)
        trainer = Trainer(accelerator, files, *parts, quiet=True, teacher=teacher)
        trainer.prepare(saved, self.overwrite or (going_on and may_replace(files)))
        return Member(name, trainer, saved)

    def train(self, group: list[Member]) -> int:
        """Train a group to the end; return the signal that came at its end, 0 for none.

        Raises: PhotosError, Interrupted, when all states are saved.
        """
        shared = share(group)
        first = min(member.trainer.state.step for member in group)
        active = list(group)
        with ExitStack() as stack:
            bar = stack.enter_context(
                StepProgress("training", self.recipe.steps, first, self.quiet)
            )
            bar.say(f"{len(group)} at once: {', '.join(member.name for member in group)}")
            for member in group:
                stack.enter_context(member.trainer.reporter.opened(member.trainer.state.step))
                member.trainer.start(len(group))
            stop = stack.enter_context(noted_signals())
            for step, batch in self._batches(group, first):
                shared.forget()
                ended = self._learn(active, step, batch)
                if not active:
                    break
                if ended:
                    self._show(bar, active, step + 1)
                    if stop.number and step + 1 < self.recipe.steps:
                        self._pause(active)
                        raise Interrupted(
                            f"stopped after step {step + 1} of {self.recipe.steps}; go on with "
                            "the same command and `resume`",
                            stop.number,
                        )
            for member in active:
                self._finish(member)
            return stop.number

    def _batches(self, group: Sequence[Member], first: int) -> Iterator[tuple[int, Batch]]:
        """Yield the batches from a step on, each with its step. Raises: PhotosError."""
        if first == self.recipe.steps:
            return
        behind = next(m.trainer for m in group if m.trainer.state.step == first)
        taken = 0
        try:
            with behind.explained():
                for batch in behind.photos():
                    if batch["failure"]:
                        raise PhotosError(batch["failure"])
                    yield first + taken // self.recipe.accumulate, batch
                    taken += 1
            if first + taken // self.recipe.accumulate < self.recipe.steps:
                raise PhotosError("the photos ended too early")
        except PhotosError as error:
            if taken % self.recipe.accumulate == 0:  # a part of a step cannot be saved
                self._pause(group)
            raise PhotosError(f"{error}; go on with the same command and `resume`") from error

    def _learn(self, active: list[Member], step: int, batch: Batch) -> bool:
        """Let all that are at this step learn from a batch; return whether that ended the step."""
        photos = as_floats(batch)
        ended = False
        for member in list(active):
            trainer = member.trainer
            if trainer.state.step != step:  # it goes on from a later state
                continue
            try:
                with trainer.explained():
                    ended = trainer.learn(batch, photos)
            except PhotosError:
                raise
            except FaststyleError as error:
                active.remove(member)
                self._fail(member.name, error)
        return ended

    def _finish(self, member: Member) -> None:
        try:
            with member.trainer.explained():
                self._keep(member.name, member.trainer.finish())
        except FaststyleError as error:
            self._fail(member.name, error)

    def _pause(self, group: Sequence[Member]) -> None:
        failed = {name for name, _ in self.result.failed}
        for member in group:
            if member.name not in failed:
                member.trainer.pause()

    def _keep(self, name: str, result: Result) -> None:
        self.result.trained.append({"name": name, **_plain(asdict(result))})

    def _fail(self, name: str, error: FaststyleError) -> None:
        self.result.failed.append((name, str(error)))

    def _show(self, bar: StepProgress, active: Sequence[Member], step: int) -> None:
        """Show the step, and every few steps the means of all networks."""
        bar.advance(step)
        logged = [member.trainer.logged for member in active if member.trainer.logged]
        if logged and (step % self.recipe.log_every == 0 or step == self.recipe.steps):
            keys = logged[0]
            bar.update(step, {key: sum(v[key] for v in logged) / len(logged) for key in keys})


class Processes:
    """The processes that torchrun started: they share out the paintings, and train alone."""

    def __init__(self) -> None:
        self.rank = 0
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.store: Any = None
        if self.count == 1 or "RANK" not in os.environ:
            self.count = 1
            return
        self.rank = int(os.environ["RANK"])
        # A store alone, no group of processes: nothing is exchanged before the end.
        self.store = next(iter(rendezvous("env://", timeout=timedelta(minutes=10))))[0]
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        for name in LAUNCHED:
            os.environ.pop(name, None)

    def quiet(self, quiet: bool) -> bool:
        """Return whether this process says nothing."""
        return quiet or self.rank > 0

    def gather(self, result: EachResult) -> EachResult | None:
        """Return the results of all processes in the first one, which waits for them, else None.

        The others must not end with an error: torchrun would stop those that still train.
        """
        if self.store is None:
            return result
        if self.rank > 0:
            self.store.set(f"{KEY}{self.rank}", json.dumps(asdict(result)))
            return None
        for other in range(1, self.count):
            while not self.store.check([f"{KEY}{other}"]):
                time.sleep(LOOK_EVERY)
            about = json.loads(self.store.get(f"{KEY}{other}"))
            result.trained += about["trained"]
            result.failed += [(name, reason) for name, reason in about["failed"]]
            result.finished += about["finished"]
        return result


def share(group: Sequence[Member]) -> SharedTargets:
    """Let networks share VGG and the features of photos; return these."""
    first = group[0].trainer
    shared = SharedTargets(first.loss)
    for member in group:
        trainer = member.trainer
        trainer.loss.vgg = first.loss.vgg
        trainer.train_step.targets = shared
        if trainer.train_step.critic is not None:
            trainer.train_step.critic.vgg = first.loss.vgg
    return shared


def name_paintings(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by the names of their styles: those of the files, with suffix where equal.

    Names that differ in case only count as equal: on some disks they are one file.

    Example:
        >>> sorted(name_paintings([Path("a.png"), Path("a.jpg"), Path("b.png")]))
        ['a-jpg', 'a-png', 'b']
    """
    counts = Counter(path.stem.casefold() for path in paths)
    named: dict[str, Path] = {}
    for path in paths:
        name = path.stem
        if counts[name.casefold()] > 1:
            name = f"{name}-{path.suffix[1:]}"
        while name.casefold() in {known.casefold() for known in named}:
            name += "-2"
        named[name] = path
    return named


def _recipe_of_runs(runs: Any) -> Recipe:
    """Return the recipe of the first run that is there. Raises: StateError where none is."""
    for files in runs:
        recipe = files.about().get("recipe")
        if isinstance(recipe, dict):
            return recipe_from_dict(recipe)
    raise StateError("nothing to resume: none of these paintings has a run; leave `resume` out")


def is_finished(files: RunFiles, painting: Path, recipe: Recipe) -> bool:
    """Return whether a run of this painting and recipe has ended. Raises: StateError, ImageError.

    A run that ended with another painting or another recipe is an error.
    """
    about = files.about()
    if about.get("status") != "finished" or not files.checkpoint.is_file():
        return False
    try:
        digest = sha256(painting)
    except OSError as error:
        raise ImageError(f"{painting}: cannot be read ({error.strerror})") from error
    if [known.get("sha256") for known in about.get("paintings", [])] != [digest]:
        raise StateError(
            f"{files.folder} finished with another painting; replace it with `overwrite` and "
            "without `resume`"
        )
    if recipe_from_dict(about.get("recipe", {})) != recipe:
        raise StateError(
            f"{files.folder} finished with another recipe; replace it with `overwrite` and "
            "without `resume`"
        )
    return True


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
