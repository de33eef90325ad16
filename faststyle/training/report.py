"""The reports of a run: lines and a bar in the terminal, TensorBoard, run.json, its result."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

import faststyle
from faststyle.devices import machine, peak_memory
from faststyle.files import write_bytes
from faststyle.judge import Scores
from faststyle.perceptual.losses import Terms
from faststyle.perceptual.weights import VGGWeights
from faststyle.progress import StepProgress
from faststyle.training.accelerators import as_data, run_program
from faststyle.training.painting import PaintingSet
from faststyle.training.photos import PhotoSource
from faststyle.training.recipe import Recipe
from faststyle.training.run_files import RunFiles
from faststyle.training.run_state import RunState
from faststyle.training.start import Origin


@dataclass(frozen=True)
class Result:
    """The result of a finished run: its files, and scores on photos that it never saw.

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
    notes: list[str] = field(default_factory=list)


class Meter:
    """Sums up the values of steps on the device, and the time that they take, between two logs.

    `per_step` is the number of photos that all processes together see in a step.
    """

    def __init__(self, accelerator: Accelerator, accumulate: int, per_step: int) -> None:
        self.accelerator = accelerator
        self.accumulate = accumulate
        self.per_step = per_step
        self.start(0)

    def start(self, step: int) -> None:
        """Begin anew after `step`."""
        self.sums = as_data(torch.zeros(len(Terms._fields) + 1), self.accelerator.device)
        self.began = time.monotonic()
        self.first = step

    def add(self, values: Tensor) -> None:
        """Count the terms and the norm of the gradient of a batch."""
        self.sums += values
        run_program(self.sums.device)

    def read(self, step: int) -> dict[str, float]:
        """Return the means since the last log, and images per second. It waits for the device."""
        steps = step - self.first
        means = self.accelerator.reduce(self.sums, "mean") / steps
        *of_terms, norm = means.cpu()
        terms = Terms(*(mean / self.accumulate for mean in of_terms))
        added = {"adversarial": terms.adversarial, "stability": terms.stability}
        named = {**terms.named(), **added, "gradient_norm": norm}
        values = {key: float(value) for key, value in named.items()}
        seconds = max(1e-9, time.monotonic() - self.began)
        values["images_per_second"] = steps * self.per_step / seconds
        self.start(step)
        return values


def _note_in_thread(args: threading.ExceptHookArgs) -> None:
    """Leave a full disk in TensorBoard's thread to the run, which finds it at its next entry."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


class Reporter:
    """Reports on a run to the terminal, TensorBoard and run.json, from the first process alone."""

    def __init__(
        self,
        accelerator: Accelerator,
        files: RunFiles,
        recipe: Recipe,
        paintings: PaintingSet,
        source: PhotoSource,
        weights: VGGWeights,
        quiet: bool,
    ) -> None:
        self.accelerator = accelerator
        self.files = files
        self.recipe = recipe
        self.paintings = paintings
        self.source = source
        self.weights = weights
        self.quiet = quiet or not accelerator.is_main_process
        self.precision = "bf16" if accelerator.mixed_precision == "bf16" else "float32"
        self.progress = StepProgress("training", recipe.steps, 0, quiet=True)
        self.tensorboard: Any = None

    @contextmanager
    def opened(self, step: int) -> Iterator[None]:
        """Show the bar, and write to TensorBoard, for a run that goes on after `step`."""
        if self.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = _note_in_thread
            # A run that was lost may have logged later steps: hide them.
            purge = step + 1 if step else None
            self.tensorboard = SummaryWriter(str(self.files.tensorboard), purge_step=purge)
        try:
            with StepProgress("training", self.recipe.steps, step, self.quiet) as self.progress:
                yield
        except BaseException:
            with suppress(OSError):  # a disk that is full has been said
                self._close()
            raise
        else:
            self._close()
        finally:
            threading.excepthook = threading.__excepthook__

    def _close(self) -> None:
        """Write what TensorBoard has not written yet. Raises: OSError."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def announce(self, step: int, origin: Origin, compiled: bool) -> None:
        """Name painting, photos and recipe, the start of the weights, and where to watch."""
        recipe = self.recipe
        say = self.progress.say
        where = f"{self.accelerator.num_processes} x {self.accelerator.device.type}"
        say(f"painting {self.paintings}  photos {self.source.description}")
        size = f"batch {recipe.batch_size}, {recipe.image_size} px"
        say(f"recipe {recipe.name}: {recipe.steps} steps of {size}, on {where}, {self.precision}")
        say(f"VGG {self.weights.id} from {self.weights.source}")
        if origin.nearest:
            say(f"starts from the base, as it paints {origin.nearest}")
        if origin.note:
            say(f"note: {origin.note}")
        for name, reason in self.paintings.left_out:
            say(f"left out {name}: {reason}")
        for note in self.paintings.notes:
            say(f"note: {note}")
        if recipe.compile and not compiled:
            say("no C++ compiler found: training runs without torch.compile")
        say(f"watch it with: tensorboard --logdir {self.files.tensorboard}")
        if step:
            say(f"resumed after step {step}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show values in the terminal and write them to TensorBoard."""
        self.progress.update(step, values)
        if self.tensorboard is not None:
            for key, value in values.items():
                self.tensorboard.add_scalar(f"train/{key}", value, step)

    def show_strip(self, step: int, strip: Tensor) -> None:
        """Write a strip of pictures, (1, 3, H, W), to TensorBoard."""
        if self.tensorboard is not None:
            self.tensorboard.add_image("strip", strip[0], step)

    def write_json(
        self,
        status: str,
        state: RunState,
        photos_seen: int,
        compiled: bool,
        more: Mapping[str, Any],
    ) -> None:
        """Write run.json: the state of the run, and all that it was started with."""
        if not self.accelerator.is_main_process:
            return
        about = {
            "status": status,
            "step": state.step,
            "photos_seen": photos_seen,
            "seconds": round(state.seconds, 1),
            "peak_rss_mb": peak_memory() >> 20,
            "checkpoint": str(self.files.checkpoint),
            "paintings": [{"file": str(p.path), "sha256": p.sha256} for p in self.paintings],
            "photos": self.source.description,
            "skipped": [*state.skipped, *self.paintings.left_out],
            "notes": self.paintings.notes,
            "vgg": self.weights.id,
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "machine": machine(),
            "precision": self.precision,
            "compiled": compiled,
            "versions": {"faststyle": faststyle.__version__, "torch": torch.__version__},
            **more,
            "recipe": self.recipe.to_dict(),
        }
        write_bytes(self.files.json, json.dumps(about, indent=1).encode())
