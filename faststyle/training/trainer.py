"""Train a network for one painting, or one for many, on Accelerate, resumable at any step.

It reads top to bottom: `train_style` opens what a run needs, `Trainer` loops over photos, logs,
saves states and pictures. One step is step.py, where photos come from is photos.py, and what is
minimised is perceptual/losses.py. Source: Johnson et al. (2016); for many paintings, Dumoulin et
al. (2016), https://arxiv.org/abs/1610.07629
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, set_seed
from torch import Tensor

import faststyle
from faststyle.checkpoint import About, save_checkpoint
from faststyle.devices import (
    find_device,
    find_precision,
    keep_freed_memory,
    peak_memory,
    set_threads,
)
from faststyle.errors import DeviceError, Interrupted, PhotosError, RecipeError, TrainingError
from faststyle.files import output_error, write_bytes
from faststyle.judge import LAYERS as JUDGE_LAYERS
from faststyle.judge import Judge, Scores
from faststyle.networks import build_network, one_painting_config
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.weights import VGGWeights, find_weights, load_vgg
from faststyle.progress import StepProgress
from faststyle.signals import noted_signals
from faststyle.training.held_out import HeldOut
from faststyle.training.painting import Painting, digest, read_paintings
from faststyle.training.photos import Batch, Source, open_source, photo_loader
from faststyle.training.recipe import Recipe, learning_rate
from faststyle.training.run_files import Run, checkpoint_path, make_writable, open_run
from faststyle.training.start import check_start, painting_means, start_network
from faststyle.training.state import State, newest_state, save_state
from faststyle.training.step import Stepped, TrainStep, build_objective

DEAD_AFTER = 50  # steps that a network gets before a constant or black output is an error
DEAD_SPREAD = 2 / 255  # standard deviation over an image below which it is constant
BLACK_PEAK = 8 / 255  # brightest value below which a batch is black
COMPILERS = ("c++", "g++", "clang++", "cl")
COLLECTION_DTYPE = torch.float16  # in which a network of many paintings is saved: half the size


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: where things are, and scores on photos that it never saw.

    A collection is not judged: it has no one painting to be judged by.
    """

    checkpoint: Path
    preview: Path
    steps: int
    seconds: float
    content_rel: float
    style_rel: float
    judge: Scores | None
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
    """Train a network for the painting `style` and write checkpoints/NAME.safetensors.

    NAME is the painting's. A folder of paintings makes one network of all of them, a collection.
    Without a recipe it is "quick", or with `resume` that of the run. Progress is kept in
    `outputs`/NAME. In a program that torchrun or accelerate launch started several times, all of
    them call this, and the first one writes.

    Raises: ImageError, PhotosError, WeightsError, RecipeError, StateError, OutputError,
    DeviceError, TrainingError, and Interrupted after SIGINT or SIGTERM, when the state was saved.

    Example:
        >>> train_style("data/styles/nocturne.png", load_recipe("smoke")).checkpoint
        PosixPath('checkpoints/nocturne.safetensors')
    """
    paintings, left_out = read_paintings(style)
    name = name or Path(style).stem
    run = Run(Path(outputs) / name, checkpoint_path(name, checkpoint))
    state, recipe = open_run(run, recipe, digest(paintings), resume, overwrite)
    many = Path(style).is_dir()
    check_collection(recipe, many)
    check_start(recipe.init, recipe.network)
    source = open_source(recipe.photos, recipe.seed)
    set_threads(threads)
    keep_freed_memory()
    accelerator = open_accelerator(recipe, device)
    try:
        with accelerator.main_process_first():  # one download for all processes of a machine
            weights = find_weights(recipe.vgg, Path(vgg_weights) if vgg_weights else None)
            judge_weights = weights if recipe.vgg == "vgg16" else find_weights("vgg16")
        if accelerator.is_main_process:
            make_writable(run, fresh=state is None)
        accelerator.wait_for_everyone()
        trainer = Trainer(
            accelerator, run, recipe, paintings, many, source, weights, judge_weights, quiet
        )
        trainer.left_out = left_out
        return trainer.run_to_end(state)
    except OSError as error:  # TensorBoard's writer and the like: a full disk is no bug
        raise output_error(run.folder, error) from error
    finally:
        if accelerator.num_processes == 1:
            release_accelerator()


def check_collection(recipe: Recipe, many: bool) -> None:
    """Raise RecipeError where a recipe does not suit one painting, or a folder of them."""
    if recipe.name == "collection" and not many:
        raise RecipeError("the recipe collection needs a folder of paintings: --style FOLDER")
    if not many:
        return
    if recipe.train == "norms":
        raise RecipeError("train = norms is for one painting; for a folder use --recipe collection")


class Trainer:
    """One run.

    Only `step`, `photos`, `seconds` and the sums between logs change after construction.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: Run,
        recipe: Recipe,
        paintings: Sequence[Painting],
        many: bool,
        source: Source,
        weights: VGGWeights,
        judge_weights: VGGWeights,
        quiet: bool,
    ) -> None:
        self.accelerator = accelerator
        self.run = run
        self.recipe = recipe
        self.paintings = paintings
        self.many = many
        self.source = source
        self.vgg_weights = weights
        self.judge_weights = judge_weights
        self.quiet = quiet or not accelerator.is_main_process
        self.step = 0
        self.photos = 0  # that steps were taken on, in all processes, however many these were
        self.seconds = 0.0
        self.skipped: list[tuple[str, str]] = []
        self.left_out: list[tuple[str, str]] = []  # paintings of a folder that cannot be read
        set_seed(recipe.seed)
        loss = build_objective(recipe, [p.image for p in paintings], weights)
        self.loss: PerceptualLoss = loss.to(accelerator.device)
        self.config = one_painting_config(recipe.network)
        if many:
            self.config["paintings"] = len(paintings)
        self.plain = build_network(self.config).to(memory_format=torch.channels_last)
        names = [painting.name for painting in paintings]
        self.origin = start_network(self.plain, self.config, recipe.init, self.loss, names)
        self.compiled = recipe.compile and self._try_compile()
        self.train_step = TrainStep(accelerator, self.plain, self.loss, recipe)
        self.per_step = recipe.batch_size * accelerator.num_processes * recipe.accumulate
        self.held_out = HeldOut(lambda: self.train_step.shown, accelerator.device)

    def run_to_end(self, state: State | None) -> Result:
        """Train from the state, or from the start, to the last step, and write the checkpoint."""
        if state is not None:
            self.accelerator.load_state(str(state.folder))
            self.step = state.step
            self.seconds = state.extra["seconds"]
            self.photos = state.extra.get("photos", self.step * self.per_step)
            self.skipped = [(n, r) for n, r in state.extra["skipped"]]
            self.train_step.balance.restore(state.extra["balance"])
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
        recipe = self.recipe
        before = self.seconds
        began = time.monotonic()
        first = self.step
        saved = self.step
        self.timed = (began, self.step)
        self.sums = torch.zeros(len(Terms._fields) + 1, device=self.accelerator.device)
        for batch in self._photos():
            stepped, photos = self._train_on(batch)
            if not self.accelerator.sync_gradients:
                continue
            self.step += 1
            self.photos += self.per_step
            self.seconds = before + time.monotonic() - began
            self.progress.advance(self.step)
            if self._due(recipe.log_every) or self.step == first + 1:
                self._log(writer, stepped.stylized, photos)
            if self._due(recipe.preview_every) and self.accelerator.is_main_process:
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

    def _photos(self) -> Any:
        """Return the loader of the photos that are left, after those that the start has seen."""
        recipe = self.recipe
        seen = self.origin.photos_seen if self.many else 0
        loader = photo_loader(
            self.source,
            size=recipe.image_size,
            batch_size=recipe.batch_size,
            start=seen + self.photos,
            stop=seen + self.photos + (recipe.steps - self.step) * self.per_step,
            seed=recipe.seed,
            workers=recipe.workers,
            paintings=len(self.paintings),
        )
        return self.accelerator.prepare(loader)

    def _train_on(self, batch: Batch) -> tuple[Stepped, Tensor]:
        """Take one step, or a part of an accumulated one, on a batch of the loader."""
        if batch["failure"]:
            raise PhotosError(batch["failure"])
        self.skipped += batch["skipped"]
        photos = batch["photo"].float().div(255)  # (B, 3, S, S)
        photos = photos.contiguous(memory_format=torch.channels_last)
        stepped = self.train_step(photos, batch["painting"], self.step)
        self.sums += stepped.values
        return stepped, photos

    def _log(self, writer: Any, stylized: Tensor, photos: Tensor) -> None:
        """Read what was counted on the device since the last log: only here a step waits for it."""
        steps = self.step - self.timed[1]
        means = self.accelerator.reduce(self.sums, "mean") / steps
        self.sums = torch.zeros_like(self.sums)
        *of_terms, norm = means.cpu()
        terms = Terms(*(mean / self.recipe.accumulate for mean in of_terms))
        named = {**terms.named(), "adversarial": terms.adversarial, "gradient_norm": norm}
        values = {key: float(value) for key, value in named.items()}
        now = time.monotonic()
        values["images_per_second"] = steps * self.per_step / max(1e-9, now - self.timed[0])
        values["balance"] = float(self.loss.balance.mean())
        values["learning_rate"] = learning_rate(self.step - 1, self.recipe)
        values["photos_seen"] = self.photos_seen
        self.timed = (now, self.step)
        self._check_finite()
        self._check_alive(stylized, photos)
        self.progress.update(self.step, values)
        if writer is not None:
            for key, value in values.items():
                writer.add_scalar(f"train/{key}", value, self.step)

    @property
    def photos_seen(self) -> int:
        """Return how many photos this network has learned from, in this run and before it."""
        seen: int = self.origin.photos_seen + self.photos
        return seen

    def _check_finite(self) -> None:
        bad = self.train_step.guard.first_bad(self.accelerator)
        if bad:
            step, term = bad
            raise TrainingError(
                f"step {step}: the {term} is not finite; the weights were kept from it, "
                f"{self._last_state()}. Try --overwrite with "
                f"--set learning_rate={self.recipe.learning_rate / 2:g}, or --precision float32"
            )

    def _check_alive(self, stylized: Tensor, photos: Tensor) -> None:
        if self.step < DEAD_AFTER:
            return
        spread = stylized.float().flatten(1).std(1).max()
        photo_spread = photos.flatten(1).std(1).max()
        readings = torch.stack([spread, photo_spread, stylized.float().max()]).tolist()
        if readings[1] < DEAD_SPREAD:  # photos without contrast say nothing about the network
            return
        constant = "constant" if readings[0] < DEAD_SPREAD else None
        dead = "black" if readings[2] < BLACK_PEAK else constant
        if dead:
            raise TrainingError(
                f"step {self.step}: the output is {dead}; {self._last_state()}. Try --overwrite "
                f"with --set learning_rate={self.recipe.learning_rate / 2:g}, or a smaller "
                "--strength"
            )

    def _last_state(self) -> str:
        state = newest_state(self.run.state)
        if state is None:
            return "no state had been saved yet"
        return f"the last good state is that of step {state.step}"

    def _save_state(self) -> None:
        self._check_finite()
        extra = {
            "seconds": self.seconds,
            "photos": self.photos,
            "skipped": self._all_skipped(),
            "recipe": self.recipe.to_dict(),
            "painting": digest(self.paintings),
            "balance": self.train_step.balance.state(self.accelerator),
        }
        save_state(self.accelerator, self.run.state, self.step, extra)
        if self.many and self.accelerator.is_main_process:
            self._save_checkpoint(self.run.newest, {})

    def _finish(self) -> Result:
        self._check_finite()
        self.skipped = self._all_skipped()
        terms = self.held_out.terms(self.loss)
        scores = {key: terms[key] for key in ("content_rel", "style_rel")}
        judged = None if self.many else self._judge()
        if judged is not None:
            scores |= asdict(judged)
        if self.accelerator.is_main_process:
            self._save_checkpoint(self.run.checkpoint, scores)
            self.held_out.write_preview(self.run.preview)
            self._write_run("finished", scores)
            shutil.rmtree(self.run.state, ignore_errors=True)  # nothing is left to resume
        self.accelerator.wait_for_everyone()
        return Result(
            self.run.checkpoint,
            self.run.preview,
            self.step,
            self.seconds,
            terms["content_rel"],
            terms["style_rel"],
            judged,
            self.skipped + self.left_out,
        )

    def _judge(self) -> Scores:
        """Return what VGG-16 says of the network, whatever it was trained with."""
        vgg = load_vgg(self.judge_weights, JUDGE_LAYERS)
        return self.held_out.judge(Judge(vgg, self.paintings[0].image))

    def _save_checkpoint(self, path: Path, scores: dict[str, float]) -> None:
        """Write the network that is shown, with all that is known of it."""
        balance = self.loss.balance.tolist()
        known = [
            {
                "name": painting.name,
                "file": painting.path.name,
                "sha256": painting.sha256,
                "size": list(painting.image.shape[-2:]),
                "balance": weight,
            }
            for painting, weight in zip(self.paintings, balance, strict=True)
        ]
        recipe = self.recipe.to_dict()
        if not self.many:
            recipe["loss"]["balance"] = balance[0]
        about = About(
            network=self.config,
            painting={} if self.many else known[0],
            paintings=known if self.many else [],
            vgg={"id": self.vgg_weights.id, "license": self.vgg_weights.license},
            photos="; before: ".join(
                dict.fromkeys(filter(None, (self.source.description, self.origin.photos)))
            ),
            photos_seen=self.photos_seen,
            recipe=recipe,
            scores=scores,
            versions={"faststyle": faststyle.__version__, "torch": torch.__version__},
            base=self.origin.base,
        )
        if self.many:
            means = painting_means(self.loss)
            save_checkpoint(path, self.train_step.shown, about, COLLECTION_DTYPE, means)
        else:
            save_checkpoint(path, self.train_step.shown, about)

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
            "photos_seen": self.photos_seen,
            "seconds": round(self.seconds, 1),
            "peak_rss_mb": peak_memory() >> 20,
            "checkpoint": str(self.run.checkpoint),
            "paintings": [{"file": str(p.path), "sha256": p.sha256} for p in self.paintings],
            "photos": self.source.description,
            "skipped": self.skipped + self.left_out,
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
        recipe = self.recipe
        say = self.progress.say
        device = self.accelerator.device.type
        where = f"{self.accelerator.num_processes} x {device}, {self._precision}"
        what = f"{len(self.paintings)} paintings" if self.many else str(self.paintings[0].path)
        say(f"painting {what}  photos {self.source.description}")
        size = f"batch {recipe.batch_size}, {recipe.image_size} px"
        say(f"recipe {recipe.name}: {recipe.steps} steps of {size}, on {where}")
        say(f"VGG {self.vgg_weights.id} from {self.vgg_weights.source}")
        if self.origin.nearest:
            say(f"starts from the base, as it paints {self.origin.nearest}")
        for bad, reason in self.left_out:
            say(f"left out {bad}: {reason}")
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
        if self.accelerator.device.type != "cpu":  # there VGG runs by hand (perceptual/vgg.py)
            self.loss.judge = torch.compile(self.loss.judge)  # type: ignore[method-assign]
        return True

    def _open_tensorboard(self) -> Any:
        if not self.accelerator.is_main_process:
            return None
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the one that is resumed from were logged by a run that was lost: hide them.
        purge = self.step + 1 if self.step else None
        return SummaryWriter(str(self.run.tensorboard), purge_step=purge)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.steps

    def _must_stop(self) -> bool:
        """Return whether a signal came; processes agree on it: a state is saved by all or none.

        On CPUs at every step, for torchrun kills 30 s after it asks; elsewhere at logs, when the
        host waits anyway.
        """
        if self.step == self.recipe.steps:
            return False
        if self.accelerator.num_processes == 1:
            return self.stop.number > 0
        if self.accelerator.device.type != "cpu" and not self._due(self.recipe.log_every):
            return False
        flag = torch.tensor([self.stop.number], device=self.accelerator.device)
        agreed = int(self.accelerator.gather(flag).max())
        if agreed:  # a signal that comes while processes agree counts at the next log
            self.stop.number = agreed
        return agreed > 0


def open_accelerator(recipe: Recipe, device: str) -> Accelerator:
    """Return the accelerator of a run, on the device and in the precision that it asks for.

    Raises: DeviceError.
    """
    wanted = find_device(device) if device != "auto" else _auto_device()
    mixed = {"bf16": "bf16", "float32": "no"}
    accelerator = Accelerator(
        cpu=wanted.type == "cpu",  # always: processes on CPUs find each other only if told so
        mixed_precision=mixed[find_precision(recipe.precision, wanted)],
        gradient_accumulation_steps=recipe.accumulate,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes < started:
        raise DeviceError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes}: name a --device"
        )
    if accelerator.device.type != wanted.type:
        raise DeviceError(
            f"--device {device}: Accelerate took {accelerator.device.type}; is it set to another?"
        )
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: style needs no more digits
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # crops are all of one size
    return accelerator


def release_accelerator() -> None:
    """Forget the accelerator of this process, so that the next one may differ in precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


def _auto_device() -> torch.device:
    from accelerate.utils import is_torch_xla_available

    return torch.device("xla") if is_torch_xla_available() else find_device("auto")
