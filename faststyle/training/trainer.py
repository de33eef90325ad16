"""Train one network for one painting: Johnson et al. (2016) on Accelerate, resumable at any step.

It reads top to bottom: `train_style` opens what a run needs, `Trainer.run` is the loop, the rest is one step, one log,
one state, one preview. Where photos come from is photos.py, what is minimised perceptual/losses.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn

import faststyle
from faststyle.checkpoint import About, save_checkpoint
from faststyle.devices import find_device, find_precision, keep_freed_memory, peak_memory, set_threads
from faststyle.errors import DeviceError, Interrupted, PhotosError, TrainingError
from faststyle.files import output_error, sha256, write_bytes
from faststyle.images import fit_shorter, read_image
from faststyle.judge import LAYERS as JUDGE_LAYERS
from faststyle.judge import Judge, Scores
from faststyle.networks import build_network
from faststyle.perceptual.losses import PerceptualLoss, Terms, deepest_layers
from faststyle.perceptual.weights import VGGWeights, find_weights, load_vgg
from faststyle.progress import StepProgress
from faststyle.signals import noted_signals
from faststyle.training.balance import Balance
from faststyle.training.guard import FiniteGuard
from faststyle.training.held_out import HeldOut
from faststyle.training.photos import Batch, Source, open_source, photo_loader
from faststyle.training.pool import GramPool
from faststyle.training.recipe import Recipe, learning_rate
from faststyle.training.run import Run, checkpoint_path, make_writable, open_run
from faststyle.training.start import check_start, start_network
from faststyle.training.state import State, newest_state, save_state
from faststyle.training.view import draw_view

BETAS = (0.9, 0.99)  # Adam's: for a second moment that forgets the first steps of a short run; not compared alone
DEAD_AFTER = 50  # steps that a network gets before a constant or black output is an error
DEAD_SPREAD = 2 / 255  # standard deviation over an image below which it is constant
BLACK_PEAK = 8 / 255  # brightest value below which a batch is black
COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: where things are, and scores on photos that it never saw."""

    checkpoint: Path
    preview: Path
    steps: int
    seconds: float
    content_rel: float
    style_rel: float
    judge: Scores
    skipped: list[tuple[str, str]] = field(default_factory=list)


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
    """Train a network for the painting `style` and write checkpoints/NAME.safetensors; NAME is the painting's.

    Without a recipe it is "quick", or with `resume` that of the run. Progress is kept in `outputs`/NAME. In a program
    that torchrun or accelerate launch started several times, all of them call this, and the first one writes.

    Raises: ImageError, PhotosError, WeightsError, RecipeError, StateError, OutputError, DeviceError, TrainingError,
    and Interrupted after SIGINT or SIGTERM, when the state was saved.

    Example:
        >>> train_style("data/styles/nocturne.png", load_recipe("smoke")).checkpoint
        PosixPath('checkpoints/nocturne.safetensors')
    """
    painting = read_image(style)
    name = name or Path(style).stem
    run = Run(Path(outputs) / name, checkpoint_path(name, checkpoint))
    state, recipe = open_run(run, recipe, sha256(style), resume, overwrite)
    check_start(recipe.init, recipe.network)
    source = open_source(recipe.photos, recipe.seed)
    set_threads(threads)
    keep_freed_memory()
    accelerator = _accelerator(recipe, device)
    try:
        with accelerator.main_process_first():  # one download for all processes of a machine
            weights = find_weights(recipe.vgg, Path(vgg_weights) if vgg_weights else None)
            judge_weights = weights if recipe.vgg == "vgg16" else find_weights("vgg16")
        if accelerator.is_main_process:
            make_writable(run, fresh=state is None)
        accelerator.wait_for_everyone()
        trainer = Trainer(accelerator, run, recipe, Path(style), painting, source, weights, judge_weights, quiet)
        return trainer.run_to_end(state)
    except OSError as error:  # TensorBoard's writer and the like: a full disk is no bug
        raise output_error(run.folder, error) from error
    finally:
        if accelerator.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)  # so that the next run may differ in precision


class Trainer:
    """One run. Every field is fixed after construction but `step`, `seconds`, and what is counted between logs."""

    def __init__(
        self,
        accelerator: Accelerator,
        run: Run,
        recipe: Recipe,
        style: Path,
        painting: Tensor,
        source: Source,
        weights: VGGWeights,
        judge_weights: VGGWeights,
        quiet: bool,
    ) -> None:
        self.accelerator, self.run, self.recipe, self.style = accelerator, run, recipe, style
        self.source, self.vgg_weights, self.judge_weights = source, weights, judge_weights
        self.quiet = quiet or not accelerator.is_main_process
        self.step, self.seconds = 0, 0.0
        self.skipped: list[tuple[str, str]] = []
        set_seed(recipe.seed)
        self.original = painting
        self.painting = fit_shorter(painting, round(recipe.painting_size * recipe.stroke_size))
        vgg = load_vgg(weights, deepest_layers(recipe.loss, recipe.vgg))
        layout = torch.channels_last
        loss = PerceptualLoss(vgg, self.painting, recipe.loss, recipe.vgg)
        self.loss: PerceptualLoss = loss.to(accelerator.device).to(memory_format=layout)
        self.balance = Balance(self.loss, recipe.content_target, recipe.loss.strength, recipe.steps)
        self.pool = GramPool(recipe.pooled, accelerator.device) if recipe.pooled else None
        self.plain: nn.Module = build_network(recipe.network, self.painting).to(memory_format=layout)
        self.origin = start_network(self.plain, recipe.network, recipe.init)
        self.compiled = recipe.compile and self._try_compile()
        optimizer = torch.optim.Adam(self.plain.parameters(), lr=recipe.learning_rate, betas=BETAS)
        self.network, self.optimizer = accelerator.prepare(self.plain, optimizer)
        if self.pool is not None:
            accelerator.register_for_checkpointing(self.pool)
        self.guard = FiniteGuard(accelerator.device)
        self.held_out = HeldOut(self.plain, accelerator.device)

    def run_to_end(self, state: State | None) -> Result:
        """Train from the state, or from the start, to the last step, and write the checkpoint."""
        if state is not None:
            self.accelerator.load_state(str(state.folder))
            self.step, self.seconds = state.step, state.extra["seconds"]
            self.skipped = [(n, r) for n, r in state.extra["skipped"]]
            self.balance.restore(state.extra["balance"])
        writer = self._open_tensorboard()
        with (
            StepProgress("training", self.recipe.steps, self.step, self.quiet) as self.progress,
            noted_signals() as self.stop,
        ):
            self._announce()
            self._write_run("running")
            self._loop(writer)
            result = self._finish()
        if writer is not None:
            writer.close()
        return result

    def _loop(self, writer: Any) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        per_step = recipe.batch_size * accelerator.num_processes * recipe.accumulate
        loader = accelerator.prepare(
            photo_loader(
                self.source,
                size=recipe.image_size,
                batch_size=recipe.batch_size,
                start=self.step * per_step,
                stop=recipe.steps * per_step,
                seed=recipe.seed,
                workers=recipe.workers,
            )
        )
        began, first, self.timed, saved = time.monotonic(), self.step, (time.monotonic(), self.step), self.step
        before = self.seconds
        self.sums = torch.zeros(len(Terms._fields) + 1, device=accelerator.device)
        for batch in loader:
            stylized, photos = self._train_on(batch)
            if not accelerator.sync_gradients:
                continue
            self.step += 1
            self.balance.adjust(self.step, accelerator)
            if self.pool is not None:
                self.pool.step(accelerator)
            self.seconds = before + time.monotonic() - began
            self.progress.advance(self.step)
            if self._due(recipe.log_every) or self.step == first + 1:
                self._log(writer, per_step, stylized, photos)
            if self._due(recipe.preview_every) and accelerator.is_main_process:
                self._write_strip(writer)
            if self._due(recipe.state_every) and self.step < recipe.steps:
                self._save_state()
                saved = self.step
            if self._must_stop():
                if saved != self.step:
                    self._save_state()
                self._write_run("interrupted")
                raise Interrupted(
                    f"stopped after step {self.step} of {recipe.steps}; go on with the same command and --resume",
                    self.stop.number,
                )

    def _train_on(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One batch forward and backward, and at the end of accumulation one step of the optimizer."""
        if batch["failure"]:
            raise PhotosError(batch["failure"])
        self.skipped += batch["skipped"]
        photos = batch["photo"].float().div(255).contiguous(memory_format=torch.channels_last)  # (B, 3, S, S)
        view = draw_view(self.recipe, self.step)
        with self.accelerator.accumulate(self.network):
            with self.accelerator.autocast():
                targets = self.loss.targets(view.of(photos), view.window)
                stylized = self.network(photos)
                error = self.pool.error if self.pool is not None else None
                terms: Terms = self.loss(view.of(stylized), targets, view.window, error)
            self.accelerator.backward(terms.total)
            norm = torch.zeros((), device=photos.device)
            if self.accelerator.sync_gradients:
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.step, self.recipe)
                norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
            values = torch.stack([*(t.detach().float() for t in terms), norm.detach().float()])
            self.guard.check(values, self.plain)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.sums += values
        self.balance.add(terms)
        return stylized.detach(), photos

    def _log(self, writer: Any, per_step: int, stylized: Tensor, photos: Tensor) -> None:
        """Read what was counted on the device since the last log: the only place where a step waits for it."""
        steps = self.step - self.timed[1]
        means = self.accelerator.reduce(self.sums, "mean") / steps
        self.sums = torch.zeros_like(self.sums)
        *of_terms, norm = means.cpu()
        terms = Terms(*(mean / self.recipe.accumulate for mean in of_terms))
        values = {key: float(value) for key, value in {**terms.named(), "gradient_norm": norm}.items()}
        now = time.monotonic()
        values["images_per_second"] = steps * per_step / max(1e-9, now - self.timed[0])
        values["balance"] = float(self.loss.balance)
        values["learning_rate"] = learning_rate(self.step - 1, self.recipe)
        self.timed = (now, self.step)
        self._check_finite()
        self._check_alive(stylized, photos)
        self.progress.update(self.step, values)
        if writer is not None:
            for key, value in values.items():
                writer.add_scalar(f"train/{key}", value, self.step)

    def _check_finite(self) -> None:
        bad = self.guard.first_bad(self.accelerator)
        if bad:
            step, term = bad
            raise TrainingError(
                f"step {step}: the {term} is not finite; the weights were kept from it, {self._last_state()}. "
                f"Try --overwrite with --set learning_rate={self.recipe.learning_rate / 2:g}, or --precision float32"
            )

    def _check_alive(self, stylized: Tensor, photos: Tensor) -> None:
        if self.step < DEAD_AFTER:
            return
        spread = stylized.float().flatten(1).std(1).max()
        photo_spread = photos.flatten(1).std(1).max()
        readings = torch.stack([spread, photo_spread, stylized.float().max()]).tolist()
        if readings[1] < DEAD_SPREAD:  # photos without any contrast say nothing about the network
            return
        dead = "black" if readings[2] < BLACK_PEAK else "constant" if readings[0] < DEAD_SPREAD else None
        if dead:
            raise TrainingError(
                f"step {self.step}: the output is {dead}; {self._last_state()}. Try --overwrite with "
                f"--set learning_rate={self.recipe.learning_rate / 2:g}, or a smaller --strength"
            )

    def _last_state(self) -> str:
        state = newest_state(self.run.state)
        return f"the last good state is that of step {state.step}" if state else "no state had been saved yet"

    def _save_state(self) -> None:
        self._check_finite()
        extra = {"seconds": self.seconds, "skipped": self._all_skipped(), "recipe": self.recipe.to_dict()}
        extra["painting"] = sha256(self.style)
        extra["balance"] = self.balance.state(self.accelerator)
        save_state(self.accelerator, self.run.state, self.step, extra)

    def _finish(self) -> Result:
        self._check_finite()
        self.skipped = self._all_skipped()
        # The judge looks with VGG-16 at every network, whatever it was trained with.
        judge = Judge(load_vgg(self.judge_weights, JUDGE_LAYERS), self.original)
        terms, judged = self.held_out.terms(self.loss), self.held_out.judge(judge)
        scores = {key: terms[key] for key in ("content_rel", "style_rel")}
        objective = dataclasses.replace(self.recipe.loss, balance=float(self.loss.balance))
        if self.accelerator.is_main_process:
            about = About(
                network={"name": "johnson", **self.recipe.network},
                painting={
                    "file": self.style.name,
                    "sha256": sha256(self.style),
                    "size": list(self.painting.shape[-2:]),
                },
                vgg={"id": self.vgg_weights.id, "license": self.vgg_weights.license},
                photos="; before: ".join(filter(None, (self.source.description, self.origin.photos))),
                recipe=dataclasses.replace(self.recipe, loss=objective).to_dict(),
                scores={**scores, **dataclasses.asdict(judged)},
                versions={"faststyle": faststyle.__version__, "torch": torch.__version__},
                base=self.origin.base,
            )
            save_checkpoint(self.run.checkpoint, self.plain, about)
            self.held_out.write_preview(self.run.preview)
            self._write_run("finished", {**scores, **dataclasses.asdict(judged)})
            shutil.rmtree(self.run.state, ignore_errors=True)  # the run is over: nothing is left to resume
        self.accelerator.wait_for_everyone()
        return Result(
            self.run.checkpoint, self.run.preview, self.step, self.seconds, **scores, judge=judged, skipped=self.skipped
        )

    def _write_strip(self, writer: Any) -> None:
        strip = self.held_out.write_strip(self.run.strips / f"{self.step:06d}.png")
        if writer is not None:
            writer.add_image("strip", strip[0], self.step)

    def _write_run(self, status: str, scores: dict[str, float] | None = None) -> None:
        if not self.accelerator.is_main_process:
            return
        about = {
            "status": status,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "peak_rss_mb": peak_memory() >> 20,
            "checkpoint": str(self.run.checkpoint),
            "painting": {"file": str(self.style), "sha256": sha256(self.style)},
            "photos": self.source.description,
            "skipped": self.skipped,
            "vgg": self.vgg_weights.id,
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "precision": self._precision,
            "compiled": self.compiled,
            "versions": {"faststyle": faststyle.__version__, "torch": torch.__version__},
            "scores": scores,
            "recipe": self.recipe.to_dict(),
        }
        write_bytes(self.run.json, json.dumps(about, indent=1).encode())

    @property
    def _precision(self) -> str:
        return "bf16" if self.accelerator.mixed_precision == "bf16" else "float32"

    def _all_skipped(self) -> list[tuple[str, str]]:
        """Return the photos that any process skipped, each once, in a fixed order."""
        return sorted({(name, reason) for name, reason in gather_object(self.skipped)})

    def _announce(self) -> None:
        recipe, say = self.recipe, self.progress.say
        where = f"{self.accelerator.num_processes} x {self.accelerator.device.type}, {self._precision}"
        say(f"painting {self.style}  photos {self.source.description}")
        size = f"batch {recipe.batch_size}, {recipe.image_size} px"
        say(f"recipe {recipe.name}: {recipe.steps} steps of {size}, on {where}")
        say(f"VGG {self.vgg_weights.id} from {self.vgg_weights.source}")
        if recipe.compile and not self.compiled:
            say("no C++ compiler found: training runs without torch.compile")
        say(f"watch it with: tensorboard --logdir {self.run.tensorboard}")
        if self.step:
            say(f"resumed after step {self.step}")

    def _try_compile(self) -> bool:
        """Compile network and objective in place; stay eager on a CPU without a C++ compiler."""
        if self.accelerator.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
            return False
        self.plain.compile()
        if self.accelerator.device.type != "cpu":  # there VGG runs by hand, and faster (perceptual/vgg.py)
            self.loss.compile()
        return True

    def _open_tensorboard(self) -> Any:
        if not self.accelerator.is_main_process:
            return None
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the one that is resumed from were logged by a run that was lost: hide them.
        return SummaryWriter(str(self.run.tensorboard), purge_step=self.step + 1 if self.step else None)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.steps

    def _must_stop(self) -> bool:
        """Whether a signal came; processes agree on it, since a state is saved by all or none.

        On CPUs at every step, for torchrun kills 30 s after it asks; elsewhere at logs, when the host waits anyway.
        """
        if self.step == self.recipe.steps:
            return False
        if self.accelerator.num_processes == 1:
            return self.stop.number > 0
        if self.accelerator.device.type != "cpu" and not self._due(self.recipe.log_every):
            return False
        flag = torch.tensor([self.stop.number], device=self.accelerator.device)
        agreed = int(self.accelerator.gather(flag).max())
        if agreed:  # a signal that comes while the processes agree must not be overwritten: it counts at the next log
            self.stop.number = agreed
        return agreed > 0


def _accelerator(recipe: Recipe, device: str) -> Accelerator:
    wanted = find_device(device) if device != "auto" else _auto_device()
    mixed = {"bf16": "bf16", "float32": "no"}
    accelerator = Accelerator(
        cpu=wanted.type == "cpu",  # not only where it was asked for: processes on CPUs find each other only if told so
        mixed_precision=mixed[find_precision(recipe.precision, wanted)],
        gradient_accumulation_steps=recipe.accumulate,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes < started:
        raise DeviceError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes}: name a --device"
        )
    if accelerator.device.type != wanted.type:
        raise DeviceError(f"--device {device}: Accelerate took {accelerator.device.type}; is it set to another one?")
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: style needs no more digits
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # crops are all of one size
    return accelerator


def _auto_device() -> torch.device:
    from accelerate.utils import is_torch_xla_available

    return torch.device("xla") if is_torch_xla_available() else find_device("auto")
