"""The loop of a run, on Accelerate: over photos, with logs, saved states and pictures.

One step is in step.py, photos are in photos.py, the objective is in perceptual/losses.py.
Source: Johnson et al. (2016); for many paintings, Dumoulin et al. (2016),
https://arxiv.org/abs/1610.07629
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from torch import Tensor

import faststyle
from faststyle.checkpoint import PHOTOS, About, save_checkpoint, strictest
from faststyle.devices import is_out_of_memory
from faststyle.errors import (
    DeviceError,
    Interrupted,
    OutputError,
    PhotosError,
    StateError,
    TrainingError,
)
from faststyle.files import output_error
from faststyle.hub import PREFIX
from faststyle.judge import LAYERS as JUDGE_LAYERS
from faststyle.judge import Judge, Scores
from faststyle.networks import build_network
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.signals import Stop, noted_signals
from faststyle.training.accelerators import agreed_signal, can_compile, count_on_host
from faststyle.training.guard import dead_output
from faststyle.training.held_out import HeldOut
from faststyle.training.painting import PaintingSet
from faststyle.training.photos import LOADER_DIED, Batch, PhotoSource, photo_loader, with_death_told
from faststyle.training.recipe import Recipe, learning_rate
from faststyle.training.remote import public
from faststyle.training.report import Meter, Reporter, Result
from faststyle.training.run_files import RunFiles, check_checkpoint_is_free
from faststyle.training.run_state import RunState
from faststyle.training.start import painting_means, start_network
from faststyle.training.state import SavedState, newest_state, save_state
from faststyle.training.step import TrainStep, build_objective
from faststyle.training.teacher import Teacher

DEAD_AFTER = 50  # steps that a network gets before a constant or black output is an error
COLLECTION_DTYPE = torch.float16  # in which a network of many paintings is saved: half the size


class Trainer:
    """One run: the networks, the objective, and the loop over photos."""

    def __init__(
        self,
        accelerator: Accelerator,
        files: RunFiles,
        recipe: Recipe,
        paintings: PaintingSet,
        source: PhotoSource,
        weights: VGGWeights,
        judge_weights: VGGWeights,
        quiet: bool,
        teacher: Teacher | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.files = files
        self.recipe = recipe
        self.paintings = paintings
        self.source = source
        self.weights = weights
        self.judge_weights = judge_weights
        self.stop = Stop()
        self.may_replace = False  # the checkpoint that is there
        self.saved_step = -1  # the step of the newest state
        self.first = 0  # the step that this process began after
        self.sharing = 1  # networks that take turns in this process
        self.ticked = time.monotonic()  # when the last step ended
        self.logged: dict[str, float] = {}  # the newest values
        set_seed(recipe.seed)
        loss = build_objective(recipe, [p.image for p in paintings], weights)
        self.loss: PerceptualLoss = loss.to(accelerator.device)
        self.config = paintings.network_config(recipe.network)
        self.network = build_network(self.config).to(memory_format=torch.channels_last)
        names = [painting.name for painting in paintings]
        self.origin = start_network(self.network, self.config, recipe.init, self.loss, names)
        self.compiled = recipe.compile and self._try_compile()
        if teacher is not None:
            teacher.network.to(accelerator.device).to(memory_format=torch.channels_last)
            self.loss.balance.copy_(teacher.balance())
        self.train_step = TrainStep(
            accelerator, self.network, self.loss, recipe, teacher, source.strong
        )
        self.state = RunState(self.train_step.balance)
        self.per_step = recipe.batch_size * accelerator.num_processes * recipe.accumulate
        self.per_step_before = self.per_step  # in the run that is resumed
        self.meter = Meter(accelerator, recipe.accumulate, self.per_step)
        self.held_out = HeldOut(
            lambda: self.train_step.shown, accelerator.device, recipe.abstraction
        )
        self.reporter = Reporter(accelerator, files, recipe, paintings, source, weights, quiet)

    @property
    def photos_seen(self) -> int:
        """Return how many photos this network has learned from, in this run and before it."""
        return self.origin.photos_seen + self.state.photos

    def run_to_end(self, saved: SavedState | None, may_replace: bool = False) -> Result:
        """Train from a saved state, or from the start, and write the checkpoint.

        With `may_replace` a checkpoint that is there is written over.
        """
        self.prepare(saved, may_replace)
        with self.explained(), self.reporter.opened(self.state.step), noted_signals() as self.stop:
            self.start()
            if self.state.step < self.recipe.steps:
                self._loop()
            return self.finish()

    def prepare(self, saved: SavedState | None, may_replace: bool) -> None:
        """Take over a saved state, if any."""
        self.may_replace = may_replace
        if saved is not None:
            self.accelerator.load_state(str(saved.folder))
            for optimizer in self.train_step.optimizers:
                count_on_host(optimizer)
            self.state.load_state_dict(saved.step, saved.extra, self.accelerator.num_processes)
            self.saved_step = saved.step
            self.per_step_before = saved.extra.get("per_step", self.per_step)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of files and of the loader into those that a person may see."""
        try:
            yield
        except OSError as error:  # TensorBoard's writer and the like
            raise self._cannot_write(output_error(self.files.folder, error)) from error
        except OutputError as error:
            raise self._cannot_write(error) from error
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._without_memory() from error
            # torch raises it wherever this process is at that moment
            if LOADER_DIED not in str(error):
                raise
            reason = "the process that loads photos has died; was there too little memory?"
            raise PhotosError(f"{reason} {self._way_on()}") from error

    def _without_memory(self) -> DeviceError:
        """Return the error for a step that does not fit in memory; nothing of it can be saved."""
        recipe = self.recipe
        half = max(1, recipe.batch_size // 2)
        smaller = f"`batch_size` {half}" if half < recipe.batch_size else "a smaller `image_size`"
        return DeviceError(
            f"memory is full: a step of {recipe.batch_size} photos of {recipe.image_size} pixels a "
            f"side does not fit. Free some, or take {smaller}; {self._way_on()}"
        )

    def start(self, sharing: int = 1) -> None:
        """Tell what begins, and start the clock, which `sharing` networks share."""
        self.reporter.announce(self.state.step, self.origin, self.compiled)
        self._note_other_steps()
        self._write_json("running")
        self.first = self.state.step
        self.sharing = sharing
        self.ticked = time.monotonic()
        self.meter.start(self.first)

    def _note_other_steps(self) -> None:
        """Say where a step has other photos than before: of another number of processes."""
        if self.per_step_before != self.per_step:
            self.reporter.progress.say(
                f"note: a step takes {self.per_step} photos now, {self.per_step_before} before; "
                "batch_size is that of each process"
            )

    def _loop(self) -> None:
        for batch in self._batches():
            if self.learn(batch, as_floats(batch)) and self._must_stop():
                self.pause()
                raise Interrupted(
                    f"stopped after step {self.state.step} of {self.recipe.steps}; "
                    "go on with the same command and `resume`",
                    self.stop.number,
                )

    def learn(self, batch: Batch, photos: Tensor) -> bool:
        """Learn from a batch, and log and save what is due; return whether that ended a step.

        `photos` are those of the batch, (B, 3, S, S) in [0, 1], in channels last.
        """
        state = self.state
        state.skipped += batch["skipped"]
        stepped = self.train_step(photos, batch["painting"], state.step)
        self.meter.add(stepped.values)
        if not self.accelerator.sync_gradients:
            return False
        state.step += 1
        state.photos += self.per_step
        now = time.monotonic()
        state.seconds += (now - self.ticked) / self.sharing
        self.ticked = now
        self.reporter.progress.advance(state.step)
        if self._due(self.recipe.log_every) or state.step == self.first + 1:
            self._log(stepped.stylized, photos)
        if self._due(self.recipe.preview_every) and self.accelerator.is_main_process:
            strip = self.held_out.write_strip(self.files.strips / f"{state.step:06d}.png")
            self.reporter.show_strip(state.step, strip)
        if self._due(self.recipe.state_every) and state.step < self.recipe.steps:
            self._save_state()
        return True

    def pause(self) -> None:
        """Save the state of this step, for the run to go on from."""
        if self.saved_step < self.state.step:
            self._save_state()
        self._write_json("interrupted")

    def _batches(self) -> Iterator[Batch]:
        """Yield the batches that are left. Raises: PhotosError where no more photos come.

        What was learned until then is saved first.
        """
        try:
            for batch in self.photos():
                if batch["failure"]:
                    raise PhotosError(batch["failure"])
                yield batch
            if self.state.step < self.recipe.steps:
                raise PhotosError("the photos ended too early")
        except PhotosError as error:
            raise self._without_photos(str(error)) from error

    def _without_photos(self, reason: str) -> PhotosError:
        """Return the error for photos that do not come, after saving the state where it can be.

        Several processes save together, and the others may still have photos.
        """
        alone = self.accelerator.num_processes == 1
        if alone and self.accelerator.sync_gradients and self.state.step > self.saved_step:
            self._save_state()
        return PhotosError(f"{reason}; {self._way_on()}")

    def photos(self) -> Iterator[Batch]:
        """Return the loader of the photos that are left, after those that the start has seen."""
        recipe = self.recipe
        seen = self.origin.photos_seen if self.paintings.is_collection else 0
        start = seen + self.state.photos
        loader = photo_loader(
            self.source,
            size=recipe.image_size,
            batch_size=recipe.batch_size,
            start=start,
            stop=start + (recipe.steps - self.state.step) * self.per_step,
            seed=recipe.seed,
            workers=recipe.workers,
            paintings=len(self.paintings),
        )
        # Not `accelerator.prepare`: that would save the loader with each state, which fails on XLA.
        # There is nothing to save.
        prepared: Iterator[Batch] = prepare_data_loader(
            loader,
            self.accelerator.device,
            self.accelerator.num_processes,
            self.accelerator.process_index,
            put_on_device=self.accelerator.device.type != "xla",  # there it is done anyway
        )
        return with_death_told(prepared)

    def _log(self, stylized: Tensor, photos: Tensor) -> None:
        """Report the means since the last log: only here a step waits for the device."""
        step = self.state.step
        values = self.meter.read(step)
        values["balance"] = float(self.loss.balance.mean())
        values["learning_rate"] = learning_rate(step - 1, self.recipe)
        values["photos_seen"] = self.photos_seen
        self._check_finite()
        dead = dead_output(stylized, photos) if step >= DEAD_AFTER else None
        if dead:
            raise TrainingError(
                f"step {step}: the output is {dead}; {self._last_state()}. Try `overwrite` "
                f"with `set` learning_rate={self.recipe.learning_rate / 2:g}, or a smaller "
                "`strength`"
            )
        self.logged = values
        self.reporter.log(step, values)

    def _check_finite(self) -> None:
        bad = self.train_step.guard.first_bad(self.accelerator)
        if bad:
            batch, term = bad  # counted from the start of this process
            step = self.first + math.ceil(batch / self.recipe.accumulate)
            raise TrainingError(
                f"step {step}: the {term} is not finite; the weights were kept from it, "
                f"{self._last_state()}. Try `overwrite` with "
                f"`set` learning_rate={self.recipe.learning_rate / 2:g}, or `precision` float32"
            )

    def _last_state(self) -> str:
        try:
            saved = newest_state(self.files.state)
        except StateError:  # there are some, and none is whole
            saved = None
        if saved is None:
            return "no state had been saved yet"
        return f"the last good state is that of step {saved.step}"

    def _cannot_write(self, error: OutputError) -> OutputError:
        """Return the error of a file that cannot be written, with the way to go on."""
        return OutputError(f"{error}; {self._way_on()}")

    def _way_on(self) -> str:
        """Return in words which state is kept, and how the run goes on from it."""
        kept = self._last_state()
        how = "" if kept.startswith("no ") else ": go on with the same command and `resume`"
        return kept + how

    def _save_state(self) -> None:
        self._check_finite()
        extra = {
            "recipe": self.recipe.to_dict(),
            "painting": self.paintings.sha256,
            "per_step": self.per_step,
            **self.state.state_dict(self.accelerator),
        }
        save_state(self.accelerator, self.files.state, self.state.step, extra)
        self.saved_step = self.state.step
        if self.paintings.is_collection and self.accelerator.is_main_process:
            self._save_checkpoint(self.files.newest, {})

    def finish(self) -> Result:
        """Write the checkpoint, then try the network on photos that it never saw.

        The checkpoint comes first, without scores: they take memory, and a process that is killed
        for it must not lose the training. Until all is written, the state of the last step stays.
        """
        self._check_finite()
        self._keep_last_state()
        if self.accelerator.is_main_process:
            if not self.may_replace:
                check_checkpoint_is_free(self.files)
            self.may_replace = True  # it is our own from here on
            self._write_json("trained")
            self._save_checkpoint(self.files.checkpoint, {})
        self.state.gather_skipped(self.accelerator)
        terms = self.held_out.terms(self.loss)
        scores = {key: terms[key] for key in ("content_rel", "style_rel")}
        judged = None if self.paintings.is_collection else self._judge()
        if judged is not None:
            scores |= asdict(judged)
        if self.accelerator.is_main_process:
            self._save_checkpoint(self.files.checkpoint, scores)
            self.held_out.write_preview(self.files.preview)
            self._write_json("finished", scores)
            shutil.rmtree(self.files.state, ignore_errors=True)  # nothing is left to resume
        self.accelerator.wait_for_everyone()
        return Result(
            self.files.checkpoint,
            self.files.preview,
            self.state.step,
            self.state.seconds,
            terms["content_rel"],
            terms["style_rel"],
            judged,
            [*self.state.skipped, *self.paintings.left_out],
            self.paintings.notes,
        )

    def _keep_last_state(self) -> None:
        """Save the state of the last step. Where that fails, the checkpoint may still fit."""
        if self.saved_step == self.state.step:
            return
        try:
            self._save_state()
        except OutputError as error:
            self.reporter.progress.say(f"the state of the last step is not kept: {error}")

    def _judge(self) -> Scores:
        """Return the scores of VGG-16 for the network, whatever it was trained with."""
        vgg = load_vgg(self.judge_weights, JUDGE_LAYERS)
        return self.held_out.judge(Judge(vgg, self.paintings[0].image))

    def _save_checkpoint(self, path: Path, scores: dict[str, float]) -> None:
        """Write the network that is shown, with all that is known of it."""
        many = self.paintings.is_collection
        balance = self.loss.balance.tolist()
        known = [
            painting.about(weight) for painting, weight in zip(self.paintings, balance, strict=True)
        ]
        recipe = self.recipe.to_dict()
        recipe["photos"] = public(self.recipe.photos)
        for key in ("init", "teacher"):  # of files, without the folders of this machine
            if not recipe[key].startswith(PREFIX):
                recipe[key] = Path(recipe[key]).name
        if not many:
            recipe["loss"]["balance"] = balance[0]
        seen = [self.source.description, self.origin.photos]
        licences = [self.weights.license, self.origin.license, f"{PHOTOS}{self.source.license}"]
        if self.train_step.teacher is not None:
            seen.append(self.train_step.teacher.about.photos)
            licences.append(self.train_step.teacher.about.license)
        photos = dict.fromkeys(filter(None, seen))
        about = About(
            network=self.config,
            painting={} if many else known[0],
            paintings=known if many else [],
            vgg={"id": self.weights.id, "license": self.weights.license},
            photos="; before: ".join(photos),
            photos_seen=self.photos_seen,
            recipe=recipe,
            scores=scores,
            versions={"faststyle": faststyle.__version__, "torch": torch.__version__},
            license=strictest(licences),
            base=self.origin.base,
        )
        if many:
            means = painting_means(self.loss)
            save_checkpoint(path, self.train_step.shown, about, COLLECTION_DTYPE, means)
        else:
            save_checkpoint(path, self.train_step.shown, about)

    def _write_json(self, status: str, scores: dict[str, float] | None = None) -> None:
        more = {"scores": scores, "may_replace": self.may_replace}
        self.reporter.write_json(status, self.state, self.photos_seen, self.compiled, more)

    def _try_compile(self) -> bool:
        """Compile network and objective in place; stay eager on a CPU without a C++ compiler."""
        if not can_compile(self.accelerator.device):
            return False
        self.network.compile()
        if self.accelerator.device.type != "cpu":  # there VGG runs by hand (perceptual/vgg.py)
            self.loss.evaluate = torch.compile(self.loss.evaluate)  # type: ignore[method-assign]
        return True

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.recipe.steps

    def _must_stop(self) -> bool:
        """Return whether a signal came, before the last step.

        On CPUs at every step, for torchrun kills 30 s after it asks; elsewhere at logs, when the
        host waits anyway.
        """
        on_cpu = self.accelerator.device.type == "cpu"
        if self.state.step == self.recipe.steps:
            return False
        if on_cpu or self.accelerator.num_processes == 1 or self._due(self.recipe.log_every):
            agreed = agreed_signal(self.stop.number, self.accelerator)
            if agreed:  # a signal that comes while processes agree counts the next time
                self.stop.number = agreed
            return agreed > 0
        return False


def as_floats(batch: Batch) -> Tensor:
    """Return the photos of a batch, (B, 3, S, S) in [0, 1], in channels last."""
    photos = batch["photo"].float().div(255)
    return photos.contiguous(memory_format=torch.channels_last)
