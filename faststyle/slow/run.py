"""`faststyle slow`: the slow path from files to files, with progress, intermediates, and a trace.

The optimisation is in optimize.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faststyle.errors import (
    ImageError,
    Interrupted,
    OutputError,
    RecipeError,
    TrainingError,
    did_you_mean,
)
from faststyle.files import check_place, write_bytes, writing
from faststyle.images import Picture, open_picture, output_format, read_image, to_pil, write_image
from faststyle.paintings import painting_note, read_painting
from faststyle.perceptual.light import transfer_luma
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import WeightedPainting
from faststyle.perceptual.weights import VGGWeights, find_weights
from faststyle.progress import StepProgress
from faststyle.signals import Stop, noted_signals
from faststyle.sizes import fit_shorter, fitted_size
from faststyle.slow.optimize import (
    INITS,
    LAYERS,
    Progress,
    SlowConfig,
    check_config,
    optimize_image,
)

LARGEST_AREA = 1 << 24  # pixels of the result: L-BFGS needs 2 KiB of memory for each
LARGEST_DEFAULT = 512  # pixels: the shorter side is at most this where no size is given
PRECISIONS = ("auto", "float32", "bf16")
GIF_FRAMES = 40  # at most, evenly over the steps
GIF_SIDE = 512  # pixels: longer side of an animation
GIF_FRAME_TIME = 120  # milliseconds
GIF_LAST_TIME = 2000  # milliseconds that the result is shown


@dataclass(frozen=True)
class SlowJob:
    """The files to read and to write, and how often to report on the way.

    `styles` are paintings, (file, weight); `masks` holds one file for each of them, or none. Every
    `print_every` steps the terms are printed, every `save_every` steps the image is kept; 0 is
    never. Files that are there are only replaced with `overwrite`.
    """

    content: Path
    output: Path
    styles: Sequence[tuple[Path, float]] = ()
    masks: Sequence[Path] = ()
    init_file: Path | None = None
    keep_colors: bool = False
    print_every: int = 0
    save_every: int = 0
    gif: Path | None = None
    trace: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class SlowResult:
    """The image of a finished job, its size (height, width), and the terms of its last step."""

    output: Path
    size: tuple[int, int]
    steps: int
    seconds: float
    terms: Mapping[str, float]
    intermediates: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse_painting(text: str) -> tuple[Path, float]:
    """Return (file, weight) of "FILE[:WEIGHT]"; the weight is 1 where none is given.

    A colon that no number follows belongs to the file's name. Raises: RecipeError for a weight that
    is negative or infinite.

    Example:
        >>> parse_painting("c:/a.jpg:0.7"), parse_painting("c:/a.jpg")
        ((PosixPath('c:/a.jpg'), 0.7), (PosixPath('c:/a.jpg'), 1.0))
    """
    name, weight = _split_number(text)
    if not 0 <= weight < math.inf:
        raise RecipeError(f"`painting` {text}: a weight must not be negative, or infinite")
    return Path(name), weight


def parse_layers(texts: Sequence[str]) -> dict[str, float]:
    """Return {layer: weight} of several "LAYER[:WEIGHT]".

    Raises: RecipeError unless all weights are above 0.
    """
    layers = dict(_split_number(text) for text in texts)
    for name, weight in layers.items():
        if not 0 < weight < math.inf:
            raise RecipeError(f"layer {name}: its weight must be above 0, got {weight}")
    return layers


def parse_objective(
    layers: str = "paper",
    content_layers: Sequence[str] = (),
    style_layers: Sequence[str] = (),
    strength: float = 1.0,
    tv: float | None = None,
    vgg: str = "vgg16",
) -> LossConfig:
    """Return the objective that command-line texts describe: a table of `LAYERS` with changes.

    `content_layers` and `style_layers` are "LAYER[:WEIGHT]", and replace those of the table where
    given. `tv` is the weight of total variation. Raises: RecipeError.
    """
    if layers not in LAYERS:
        raise RecipeError(f"unknown `layers` {layers!r}.{did_you_mean(layers, LAYERS)}")
    if not strength >= 0:
        raise RecipeError(f"`strength` must be 0 or more, got {strength}")
    if tv is not None and not 0 <= tv < math.inf:
        raise RecipeError(f"`tv` must be 0 or more, got {tv}")
    changes: dict[str, Any] = {"strength": strength}
    if tv is not None:
        changes["tv_weight"] = tv
    elif strength == 0:
        changes["tv_weight"] = 0.0  # content alone is the photo as it is
    if content_layers:
        changes["content_layers"] = parse_layers(content_layers)
    if style_layers:
        changes["style_layers"] = parse_layers(style_layers)
    loss = dataclasses.replace(LAYERS[layers], **changes)
    loss.layers(vgg)  # raises for an unknown layer now, before any work
    return loss


def configure(
    *, init: str, dream: Sequence[str], precision: str, **fields: Any
) -> tuple[SlowConfig, Path | None]:
    """Return the settings that command-line texts describe, and the file to start from.

    The file is None where `init` is a word. `dream` are "LAYER[:WEIGHT]"; `fields` are those of
    SlowConfig as they are. Raises: RecipeError.
    """
    for name, value, allowed in (
        ("pooling", fields.get("pooling", "max"), ("max", "average")),
        ("precision", precision, PRECISIONS),
    ):
        if value not in allowed:
            raise RecipeError(f"unknown `{name}` {value!r}.{did_you_mean(value, allowed)}")
    file = None if init in INITS else Path(init)
    # A name without suffix that is no file is most likely a misspelt word.
    if file and not file.suffix and not file.exists():
        raise RecipeError(
            f"unknown start {init!r}.{did_you_mean(init, INITS)} A file has a suffix."
        )
    config = SlowConfig(
        dream=parse_layers(dream),
        init="content" if file else init,
        precision=precision,
        **fields,
    )
    return config, file


def run_slow(
    job: SlowJob,
    config: SlowConfig,
    size: int | None = None,
    weights: Callable[[], VGGWeights] | None = None,
    device: str = "auto",
    quiet: bool = True,
) -> SlowResult:
    """Do a job. `size` is the shorter side of the result; None is that of the photo, at most 512.

    `weights` finds the weights of VGG; None is `find_weights`. It is called only after the files
    were checked, because it may download. When a signal comes or a term is not finite, the image so
    far is written, and the error says so. Raises: ImageError, OutputError, RecipeError,
    WeightsError, DeviceError, TrainingError, Interrupted.
    """
    _check_paths(job)
    photo = open_picture(job.content)
    side = min(photo.rgb.shape[-2:])
    config = dataclasses.replace(config, size=min(side, LARGEST_DEFAULT) if size is None else size)
    _check_area(job.content, photo, config.size)
    if job.init_file is not None:
        config = dataclasses.replace(config, init=read_image(job.init_file))
    styles = _read_styles(job)
    notes = [painting_note(s.painting, p) for s, (p, _) in zip(styles, job.styles, strict=True)]
    check_config(config)  # before weights are looked for
    found = find_weights(config.vgg) if weights is None else weights()
    notes = [*photo.notes, *(note for note in notes if note)]
    recorder = _Recorder(job, config, photo, notes, quiet)
    with noted_signals() as recorder.stop, recorder:
        try:
            optimize_image(photo.rgb, styles, config, found, device, recorder.see)
        except TrainingError as error:
            raise recorder.failed(error) from error
        return recorder.finish()


class _Recorder:
    """Sees every step: prints, traces, keeps intermediates, and writes the result."""

    def __init__(
        self, job: SlowJob, config: SlowConfig, photo: Picture, notes: list[str], quiet: bool
    ) -> None:
        self.job = job
        self.photo = photo
        self.notes = notes
        self.stop = Stop()
        self.size = fitted_size(photo.rgb.shape[-2], photo.rgb.shape[-1], config.size)
        self.quiet = quiet
        self.bar: StepProgress | None = None
        self.trace: list[str] = []
        self.frames: list[Image.Image] = []
        self.saved: list[Path] = []
        self.now: Progress | None = None

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.__exit__()

    def see(self, now: Progress) -> bool:
        """Record a step; return whether to stop."""
        job = self.job
        self.now = now
        # Only now is the number of steps known.
        if self.bar is None:
            self.bar = StepProgress("optimising", now.total_steps, 0, self.quiet).__enter__()
            for note in self.notes:
                self.bar.say(f"note: {note}")
        self.bar.advance(now.total_step)
        if job.print_every and (now.total_step % job.print_every == 0 or now.last):
            self.bar.update(now.total_step, now.terms)
        if job.trace:
            self.trace.append(json.dumps(_trace_row(now)))
        between = now.total_step > 0 and not now.last  # the last image is the output
        if job.save_every and between and now.total_step % job.save_every == 0:
            path = job.output.with_name(
                f"{job.output.stem}-{now.total_step:06d}{job.output.suffix}"
            )
            self._write(path, now.image)
            self.saved.append(path)
        # -2: the first and the last frame are added to the evenly spaced ones.
        stride = math.ceil(now.total_steps / (GIF_FRAMES - 2))
        if job.gif and (now.last or now.total_step % stride == 0):
            self.frames.append(self._frame(now.image))
        return self.stop.number > 0 and not now.last

    def finish(self) -> SlowResult:
        """Write all files of the job, and return its result.

        Raises: Interrupted after a run that was stopped, OutputError.
        """
        now = self._write_all()
        if not now.last:
            raise Interrupted(
                f"stopped after step {now.total_step} of {now.total_steps}; "
                f"{self.job.output} is the image so far",
                self.stop.number,
            )
        return SlowResult(
            self.job.output,
            self.size,
            now.total_step,
            now.seconds,
            now.terms,
            self.saved,
            self.notes,
        )

    def failed(self, error: TrainingError) -> TrainingError:
        """Write the last good image, where there is one, and return the error that names it."""
        if self.now is None:
            return error
        self._write_all()
        return TrainingError(
            f"{error}. {self.job.output} is the image of step {self.now.total_step}"
        )

    def _write_all(self) -> Progress:
        assert self.now is not None
        self._write(self.job.output, self.now.image)  # first: the disk may be full
        if self.job.trace:
            write_bytes(self.job.trace, "".join(f"{row}\n" for row in self.trace).encode())
        if self.job.gif:
            # The last frame is shown longest: it must be the image so far.
            if not self.now.last:
                self.frames.append(self._frame(self.now.image))
            self._write_gif(self.job.gif)
        return self.now

    def _write(self, path: Path, image: Tensor) -> None:
        alpha = None if self.photo.alpha is None else fit_shorter(self.photo.alpha, min(self.size))
        write_image(self._finished(image), path, alpha, self.photo.icc)

    def _finished(self, image: Tensor) -> Tensor:
        """Return an image of any size in the size and the colours of the result."""
        image = image.cpu()
        if tuple(image.shape[-2:]) != self.size:
            image = F.interpolate(image, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        if self.job.keep_colors:
            image = transfer_luma(image, fit_shorter(self.photo.rgb, min(self.size)))
        return image

    def _frame(self, image: Tensor) -> Image.Image:
        h, w = self.size
        scale = min(1.0, GIF_SIDE / max(h, w))
        return to_pil(self._finished(image)).resize(
            (max(1, round(w * scale)), max(1, round(h * scale))), Image.Resampling.BICUBIC
        )

    def _write_gif(self, path: Path) -> None:
        times = [GIF_FRAME_TIME] * (len(self.frames) - 1) + [GIF_LAST_TIME]
        with writing(path) as temporary:
            self.frames[0].save(
                temporary,
                "GIF",
                save_all=True,
                append_images=self.frames[1:],
                duration=times,
                loop=0,
                optimize=False,
            )


def _trace_row(now: Progress) -> dict[str, Any]:
    row = {"step": now.total_step, "size": now.size, "seconds": round(now.seconds, 4), **now.terms}
    row["rss_mb"] = psutil.Process().memory_info().rss >> 20
    if now.image.device.type == "cuda":
        row["device_mb"] = torch.cuda.max_memory_allocated(now.image.device) >> 20
    return row


def _check_paths(job: SlowJob) -> None:
    """Check all paths before the work, which may take an hour. Raises: OutputError, RecipeError."""
    output_format(job.output)
    if job.gif is not None and job.gif.suffix.lower() != ".gif":
        raise OutputError(f"`gif` {job.gif}: an animation is a file that ends in .gif")
    if min(job.print_every, job.save_every) < 0:
        raise RecipeError("`print_every` and `save_every` must not be negative")
    if job.masks and len(job.masks) != len(job.styles):
        raise RecipeError(
            f"{len(job.styles)} `painting` and {len(job.masks)} `mask`: "
            "give one mask for each painting"
        )
    inputs = [
        job.content,
        *(path for path, _ in job.styles),
        *job.masks,
        *([job.init_file] if job.init_file else []),
    ]
    outputs = [path for path in (job.output, job.gif, job.trace) if path is not None]
    for i, output in enumerate(outputs):
        if output.resolve() in {path.resolve() for path in (*inputs, *outputs[:i])}:
            raise OutputError(
                f"{output} would be written over a file of this command: choose another name"
            )
        check_place(output)
    if job.save_every:
        _check_intermediates(job, inputs)
    if not job.overwrite:
        there = [path for path in (*outputs, *_intermediates(job)) if path.exists()]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise OutputError(
                f"{there[0]}{more}: there already; write over with `overwrite`, or choose another "
                "name"
            )


def _intermediates(job: SlowJob) -> list[Path]:
    """Return the files that are there with names that images on the way may take."""
    folder = job.output.absolute().parent
    if not job.save_every or not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if _is_on_the_way(p, job))
    return [job.output.with_name(name) for name in names]


def _is_on_the_way(path: Path, job: SlowJob) -> bool:
    stem = re.escape(job.output.stem)
    suffix = re.escape(job.output.suffix)
    return re.fullmatch(rf"{stem}-\d{{6,}}{suffix}", path.name) is not None


def _check_intermediates(job: SlowJob, inputs: Sequence[Path]) -> None:
    """Raise OutputError for an input whose name an image on the way may take."""
    folder = job.output.resolve().parent
    for path in inputs:
        if _is_on_the_way(path, job) and path.resolve().parent == folder:
            raise OutputError(
                f"{path} could be written over by `save_every`: "
                f"choose another name for {job.output}"
            )


def _check_area(path: Path, photo: Picture, size: int) -> None:
    """Raise ImageError where the result would have more pixels than memory is likely to hold."""
    if size < 1:
        return  # `check_config` says so
    h, w = fitted_size(photo.rgb.shape[-2], photo.rgb.shape[-1], size)
    if h * w > LARGEST_AREA:
        fits = math.isqrt(LARGEST_AREA * min(h, w) // max(h, w))
        raise ImageError(
            f"{path}: the result would have {h}x{w} pixels, at most {LARGEST_AREA:,} can be "
            f"optimised; use `size` {fits}"
        )


def _read_styles(job: SlowJob) -> list[WeightedPainting]:
    masks: list[Tensor | None] = [_read_mask(path) for path in job.masks] or [None] * len(
        job.styles
    )
    return [
        WeightedPainting(read_painting(path), weight, mask)
        for (path, weight), mask in zip(job.styles, masks, strict=True)
    ]


def _read_mask(path: Path) -> Tensor:
    """Return the mask of a picture, (1, 1, H, W): white is 1, black is 0.

    Raises: ImageError when all of it is black.
    """
    mask = read_image(path).mean(1, keepdim=True)
    if not mask.any():
        raise ImageError(f"{path}: the mask is black everywhere; white is where the style goes")
    return mask


def _split_number(text: str) -> tuple[str, float]:
    """Return (name, number) of "NAME[:NUMBER]"; the number is 1 where there is none."""
    match = re.fullmatch(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", text)
    return (match[1], float(match[2])) if match else (text, 1.0)
