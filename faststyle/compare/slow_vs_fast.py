"""Slow against fast on the same photos: by the network's objective, the judge and the clock.

The slow path minimises, for each photo alone, the same objective that the network was trained on.
So "equal at step N" compares two values of one function. The page that shows it is in report.py.

Source: Johnson et al. (2016), section 4.1 and figure 5, https://arxiv.org/abs/1603.08155
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import faststyle
from faststyle.abstraction import abstract
from faststyle.checkpoint import find_checkpoint, load_checkpoint
from faststyle.compare.results import (
    INITS,
    Checkpoint,
    Comparison,
    FastRow,
    Gallery,
    RefinedRow,
    SlowRow,
    Summary,
)
from faststyle.compare.summary import summarise
from faststyle.devices import find_device, machine
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, ImageError, Interrupted, OutputError, RecipeError
from faststyle.files import cache_folder, sha256, write_bytes
from faststyle.images import READABLE, read_image
from faststyle.judge import LAYERS, SMALLEST_GRID, Judge, protocol_photo
from faststyle.paintings import painting_note, read_painting
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.weights import VGGWeights, find_weights, load_vgg
from faststyle.progress import StepProgress
from faststyle.signals import Stop, noted_signals
from faststyle.slow.descent import Descent
from faststyle.stylize.refine import Refiner
from faststyle.training.objective import check_trained_on, recipe_of
from faststyle.training.recipe import Recipe
from faststyle.training.step import build_objective

# Pictures of these steps, and of the last one, are kept, shown and judged.
SHOWN_STEPS = (10, 50, 100, 300)
TIMED_RUNS = 3  # of a network on one photo, after one that warms up; their median counts
CACHE_VERSION = 5  # of the files that keep results of the slow path; part of their key


@dataclass(frozen=True)
class _Subject:
    """A checkpoint that is compared, with the objective that it was trained on."""

    name: str
    network: nn.Module
    abstraction: float  # of the photos that it paints
    recipe: Recipe
    loss: PerceptualLoss
    key: str  # of the objective: equal for checkpoints that share it
    refiner: Refiner | None


@dataclass(frozen=True)
class _Slow:
    """The slow path on one photo from one start: its rows, and the pictures of some steps."""

    rows: list[SlowRow]
    pictures: Mapping[int, Tensor]  # (1, 3, size, size) in [0, 1], rounded to 8 bits


@dataclass(frozen=True)
class _AtSize:
    """All results at one size; `slow` is keyed by checkpoint."""

    fast: list[FastRow]
    refined: list[RefinedRow]
    slow: Mapping[str, list[SlowRow]]
    summaries: list[Summary]
    galleries: list[Gallery]


def compare(
    style: str | Path,
    checkpoints: Sequence[str | Path],
    photos: str | Path,
    *,
    sizes: Sequence[int] = (256,),
    steps: int = 300,
    refine: float = 0.0,
    limit: int | None = None,
    optimizer: str = "lbfgs",
    vgg_weights: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = True,
    tell: Callable[[FastRow | SlowRow], None] = lambda row: None,
) -> Comparison:
    """Compare networks with the slow path on the photos of a folder, cropped to squares.

    Each of `sizes` is a side in pixels. With `refine`, each network's picture is also refined for
    so many seconds (stylize/refine.py). `limit` takes only so many photos, evenly from the sorted
    folder. The judge looks with VGG-16, whatever the objective uses. `tell` is called with each row
    of network and slow path as soon as it is known; an error that it raises ends the comparison.

    Results of the slow path are kept by the content of photo, painting and objective, and by
    machine. So the same call goes on where it was stopped, and another checkpoint of the same
    objective costs only its own time.

    Raises: ImageError, CheckpointError (also for a checkpoint of another painting), RecipeError,
    WeightsError, DeviceError, Interrupted.
    """
    if steps < 1 or min(sizes, default=0) < 1:
        raise RecipeError("`steps` and `size` must be 1 or more")
    painting = read_painting(style)
    note = painting_note(painting, style)
    sizes = list(dict.fromkeys(sizes))
    files = list_photos(Path(photos), limit)
    where = find_device(device)
    subjects = [
        _open_subject(find_checkpoint(str(c)), Path(style), painting, vgg_weights, where, refine)
        for c in checkpoints
    ]
    _check_subjects(subjects, min(sizes), where)
    # A file of VGG-19 serves its checkpoints only; the judge then finds its VGG-16 as always.
    judge_file = vgg_weights if all(s.recipe.vgg == "vgg16" for s in subjects) else None
    judge_weights = find_weights("vgg16", judge_file)
    objectives = len({s.key for s in subjects})
    total = len(files) * len(sizes) * objectives * len(INITS) * steps
    bar = StepProgress("slow path", total, 0, quiet)
    work = _Work(subjects, steps, optimizer, seed, where, bar, tell)
    with noted_signals() as work.stop, work.bar:
        if note:
            bar.say(f"note: {note}")
        parts = [_compare_at(work, files, size, painting, judge_weights) for size in sizes]
    return Comparison(
        about=_about(work, Path(style).name, judge_weights.id),
        painting=painting,
        checkpoints=[_describe(subject) for subject in subjects],
        summaries=[summary for part in parts for summary in part.summaries],
        fast=[row for part in parts for row in part.fast],
        refined=[row for part in parts for row in part.refined],
        slow={s.name: [row for part in parts for row in part.slow[s.name]] for s in subjects},
        galleries=[gallery for part in parts for gallery in part.galleries],
    )


def _compare_at(
    work: _Work, files: Sequence[Path], size: int, painting: Tensor, judge_weights: VGGWeights
) -> _AtSize:
    """Measure all networks and the slow path on all photos at one size, and judge them."""
    big_enough = size >= SMALLEST_GRID
    judge = Judge(load_vgg(judge_weights, LAYERS), painting, size) if big_enough else None
    crops = [(file, _crop(work, file, size)) for file in files]
    found = [_gallery(work, file, photo, size) for file, photo in crops]
    fast: list[FastRow] = []
    refined: list[RefinedRow] = []
    slow: dict[str, list[SlowRow]] = {}
    summaries = []
    for subject in work.subjects:
        all_ours = [row for _, rows, _ in found for row in rows if row.checkpoint == subject.name]
        ours = [row for row in all_ours if not isinstance(row, RefinedRow)]
        ours_refined = [row for row in all_ours if isinstance(row, RefinedRow)]
        theirs = [by_key[subject.key] for _, _, by_key in found]
        rows = [row for by_init in theirs for path in by_init.values() for row in path.rows]
        work.heed_signals("before judging")
        scores: dict[str, Any] = {}
        if judge is not None:
            outputs = [gallery.fast[subject.name] for gallery, _, _ in found]
            photos = [photo for _, photo in crops]
            scores = _judge_all(judge, photos, outputs, theirs)
            if ours_refined:
                further = [gallery.refined[subject.name] for gallery, _, _ in found]
                scores["refined"] = dataclasses.asdict(judge.score(further, photos))
        summaries.append(summarise(subject.name, size, ours, rows, scores, ours_refined))
        fast += ours
        refined += ours_refined
        slow[subject.name] = rows
    return _AtSize(fast, refined, slow, summaries, [gallery for gallery, _, _ in found])


def _crop(work: _Work, file: Path, size: int) -> Tensor:
    """Return the middle of a photo, and say where it has to be magnified."""
    image = read_image(file)
    h, w = image.shape[-2:]
    if min(h, w) < size:
        work.bar.say(f"note: {file.name}: {h}x{w} pixels, its middle is magnified to {size}x{size}")
    return protocol_photo(image, size)


def _about(work: _Work, painting: str, vgg: str) -> dict[str, Any]:
    """Return the settings and the machine, which a reader needs to repeat the comparison."""
    return {
        "painting": painting,
        "steps": work.steps,
        "refine": max((s.refiner.seconds for s in work.subjects if s.refiner), default=0.0),
        "optimizer": work.optimizer,
        "objective": {s.name: dataclasses.asdict(s.recipe.loss) for s in work.subjects},
        "painting_size": {s.name: s.recipe.painting_size for s in work.subjects},
        "vgg": vgg,
        "threads": torch.get_num_threads(),
        "device": str(work.device),
        "machine": machine(),
        "versions": {
            "faststyle": faststyle.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _describe(subject: _Subject) -> Checkpoint:
    parameters = sum(p.numel() for p in subject.network.parameters())
    tensors = subject.network.state_dict().values()
    megabytes = float(sum(t.numel() * t.element_size() for t in tensors)) / 1e6
    return Checkpoint(subject.name, subject.recipe.network, parameters, megabytes)


def list_photos(folder: Path, limit: int | None = None, option: str = "`photos` ") -> list[Path]:
    """Return the images of a folder in order of their names, or `limit` of them, evenly.

    `option` is the start of each error message: the option that named the folder. Raises:
    ImageError, RecipeError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise RecipeError(f"`limit` must be 1 or more, got {limit}")
    if os.path.isfile(folder):  # unlike is_file, it takes names that are too long
        raise ImageError(f"{option}{folder}: a file, where a folder of pictures is expected")
    if not os.path.isdir(folder):
        raise ImageError(f"{option}{folder}: no such folder")
    try:
        there = list(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{option}{folder}: cannot be read ({error.strerror})") from None
    files = sorted(p for p in there if p.suffix.lower() in READABLE and not p.name.startswith("."))
    if not files:
        raise ImageError(
            f"{option}{folder}: no images in it ({', '.join(sorted(READABLE))} are looked for)"
        )
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


@dataclass
class _Work:
    """Everything that stays the same from photo to photo, and the progress so far."""

    subjects: list[_Subject]
    steps: int
    optimizer: str
    seed: int
    device: torch.device
    bar: StepProgress
    tell: Callable[[FastRow | SlowRow], None]
    stop: Stop = field(default_factory=Stop)
    done: int = 0

    def heed_signals(self, where: str) -> None:
        """Raise Interrupted when a signal came."""
        if self.stop.number:
            raise Interrupted(f"stopped {where}; the same command goes on there", self.stop.number)


def _open_subject(
    path: Path,
    style: Path,
    painting: Tensor,
    vgg_weights: Path | None,
    device: torch.device,
    refine: float,
) -> _Subject:
    network, about = load_checkpoint(path)
    recipe = recipe_of(path, about)
    check_trained_on(path, about, style)
    weights = find_weights(recipe.vgg, vgg_weights)
    loss = build_objective(recipe, [painting], weights).to(device)
    layers = recipe.loss.layers(recipe.vgg)
    # Everything that the value of the objective depends on, besides the photo.
    parts = [
        sha256(style),
        recipe.painting_size * recipe.stroke_size,
        recipe.loss.mode,
        recipe.loss.balance,
        recipe.loss.gram,
        recipe.loss.apart,
        recipe.loss.contrast,
        layers,
        recipe.loss.weights(),
        weights.id,
    ]
    layout = torch.channels_last
    network = network.to(device).to(memory_format=layout)
    refiner = None
    if refine:
        options = EngineOptions(device=device.type, precision="float32")
        refiner = Refiner(network, recipe, painting, weights, refine, options)
    return _Subject(path.stem, network, about.abstraction, recipe, loss, _hash(parts), refiner)


def _check_subjects(subjects: Sequence[_Subject], size: int, device: torch.device) -> None:
    """Check names and the smallest size before anything is measured.

    Raises: CheckpointError for two checkpoints of one name, ImageError for a size that is too small
    for the layers.
    """
    names = [subject.name for subject in subjects]
    for name in names:
        if names.count(name) > 1:
            raise CheckpointError(
                f"two checkpoints are called {name!r}, and nothing would tell them apart; "
                "rename one"
            )
    # The objective itself knows the smallest size; a blank photo makes it tell.
    blank = torch.zeros(1, 3, size, size, device=device)
    try:
        with torch.no_grad():
            for subject in subjects:
                subject.loss(blank, subject.loss.targets(blank))
    except ImageError as error:
        raise ImageError(f"`size` {size}: {error}") from None


def _gallery(
    work: _Work, file: Path, photo: Tensor, size: int
) -> tuple[Gallery, list[FastRow], dict[str, dict[str, _Slow]]]:
    """Return a photo's pictures, the networks' rows, and the slow path by objective and init."""
    photo = photo.to(work.device).contiguous(memory_format=torch.channels_last)
    outputs = {}
    refined = {}
    rows: list[FastRow] = []
    by_key: dict[str, dict[str, _Slow]] = {}
    for subject in work.subjects:
        stylized, seconds = _timed(subject.network, subject.abstraction, photo)
        about = (subject.name, file.name, size)
        rows.append(FastRow(*about, *_values(subject.loss, stylized, photo), seconds))
        work.tell(rows[-1])
        outputs[subject.name] = stylized.cpu()
        if subject.refiner is not None:
            work.heed_signals(f"before {file.name} is refined")
            better = subject.refiner(abstract(photo, subject.abstraction))
            repainted, again = _timed(better.network, subject.abstraction, photo)
            values = _values(subject.loss, repainted, photo)
            rows.append(RefinedRow(*about, *values, better.seconds + again, better.steps))
            refined[subject.name] = repainted.cpu()
        # Checkpoints of one objective share the slow path.
        if subject.key not in by_key:
            by_key[subject.key] = {
                init: _slow(work, subject, file, photo, size, init) for init in INITS
            }
    # The page shows the slow path by the first checkpoint's objective only.
    first = by_key[work.subjects[0].key]
    pictures = {(init, step): p for init in INITS for step, p in first[init].pictures.items()}
    return Gallery(file.name, size, photo.cpu(), pictures, outputs, refined), rows, by_key


@torch.no_grad()
def _values(loss: PerceptualLoss, picture: Tensor, photo: Tensor) -> tuple[float, float, float]:
    """Return content_rel, style_rel and total of a picture."""
    terms = loss(picture, loss.targets(photo))
    return float(terms.content_rel), float(terms.style_rel), float(terms.total)


@torch.no_grad()
def _timed(network: nn.Module, abstraction: float, photo: Tensor) -> tuple[Tensor, float]:
    """Return the stylized photo, and the median seconds that it took, abstraction included."""
    times = []
    for _ in range(1 + TIMED_RUNS):
        _synchronize(photo.device)  # a GPU works on after a call returns
        began = time.perf_counter()
        stylized = network(abstract(photo, abstraction))
        _synchronize(photo.device)
        times.append(time.perf_counter() - began)
    return stylized.float().clamp(0, 1), median(times[1:])  # the first run warms up


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _slow(work: _Work, subject: _Subject, file: Path, photo: Tensor, size: int, init: str) -> _Slow:
    """Return the slow path on one photo, kept from an earlier call or computed now."""
    work.heed_signals(f"before {file.name} from {init}")
    settings = (init, work.steps, work.optimizer, work.seed, str(work.device))
    # Seconds and rounding depend on these.
    versions = (torch.__version__, torch.get_num_threads(), machine())
    pixels = hashlib.sha256(photo.cpu().contiguous().numpy().tobytes()).hexdigest()
    path = (
        cache_folder()
        / "slow"
        / f"{_hash([CACHE_VERSION, subject.key, pixels, settings, versions])}.safetensors"
    )
    kept = _read_kept(path, file.name, size, init)
    if kept is None:
        kept = _optimise(work, subject, file, photo, size, init)
        try:
            _write_kept(path, kept)
        # A cache that cannot be written costs time later; this comparison goes on.
        except OutputError as error:
            work.bar.say(f"results of the slow path are not kept: {error}")
    else:
        for row in kept.rows:
            work.tell(row)
    work.done += work.steps
    work.bar.advance(work.done)
    return kept


def _optimise(
    work: _Work, subject: _Subject, file: Path, photo: Tensor, size: int, init: str
) -> _Slow:
    targets = subject.loss.targets(photo)
    # A generator of its own, on the CPU: the same noise for each photo and on each device.
    generator = torch.Generator().manual_seed(work.seed)
    start = photo if init == "content" else torch.rand(photo.shape, generator=generator).to(photo)

    def terms(image: Tensor) -> Mapping[str, Tensor]:
        found: Terms = subject.loss(image.contiguous(memory_format=torch.channels_last), targets)
        return found.named()

    rows = []
    pictures = {}
    for step in Descent(start, terms, work.optimizer).run(work.steps):
        t = step.terms
        rows.append(
            SlowRow(
                file.name,
                size,
                init,
                step.step,
                t["content_rel"],
                t["style_rel"],
                t["total"],
                step.seconds,
            )
        )
        work.tell(rows[-1])
        if step.step in (*SHOWN_STEPS, work.steps):
            # Rounded to 8 bits, as the cache keeps it: both ways give the same pictures.
            pictures[step.step] = step.image.mul(255).round().div(255).cpu()
        work.bar.advance(work.done + step.step)
        if step.step < work.steps:  # after the last step the result is kept before a signal counts
            work.heed_signals(f"at step {step.step} of {file.name} from {init}")
    return _Slow(rows, pictures)


def _write_kept(path: Path, slow: _Slow) -> None:
    tensors = {
        f"step{n}": p.mul(255).round().to(torch.uint8).contiguous()
        for n, p in slow.pictures.items()
    }
    rows = [[r.step, r.content_rel, r.style_rel, r.total, r.seconds] for r in slow.rows]
    write_bytes(path, save(tensors, metadata={"rows": json.dumps(rows)}))


def _read_kept(path: Path, photo: str, size: int, init: str) -> _Slow | None:
    """Return the results that were kept; None where there are none, or the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            rows = [SlowRow(photo, size, init, *row) for row in json.loads(file.metadata()["rows"])]
            pictures = {
                int(k.removeprefix("step")): file.get_tensor(k).float().div(255)
                for k in file.keys()  # noqa: SIM118 (the file is no mapping)
            }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return _Slow(rows, pictures)


def _judge_all(
    judge: Judge, photos: list[Tensor], outputs: list[Tensor], slow: list[dict[str, _Slow]]
) -> dict[str, Any]:
    def scores(pictures: list[Tensor]) -> dict[str, Any]:
        return dataclasses.asdict(judge.score(pictures, photos))

    rows = [
        {"init": init, "step": step, **scores([by_init[init].pictures[step] for by_init in slow])}
        for init in INITS
        for step in sorted(slow[0][init].pictures)
    ]
    return {"fast": scores(outputs), "slow": rows}


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
