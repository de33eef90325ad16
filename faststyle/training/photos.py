"""Photos to train on, by number: photo n and its augmentation are a pure function of (seed, n).

So workers, processes and resuming change nothing: whoever asks for sample 1234 gets the same
pixels. Sources are COCO, any folder, tars and parquet files (shards.py), any dataset of the Hugging
Face Hub, or the photos that scikit-image carries. A file that cannot be used never stops a run:
another takes its place, and it is listed at the end.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as VF

from faststyle.errors import ImageError, PhotosError
from faststyle.images import READABLE, decode, flatten
from faststyle.training.lanes import FEW, LanePhotos, Raw, draw_row
from faststyle.training.leaves import dead_leaves
from faststyle.training.remote import is_url
from faststyle.training.shards import (
    NOT_KNOWN,
    PARQUET,
    ParquetPhotos,
    TarPhotos,
    TarStream,
    cannot_list,
    find_shards,
)

COCO = "detection-datasets/coco:train:image"
MIN_SIDE = 32  # pixels: a crop of a smaller photo is all blur
MAX_ATTEMPTS = 20  # bad photos in a row before the source is given up
READ_AT_ONCE = 16  # rows
RETRIES = 3  # of a stream that is cut off
LOADER_DIED = "DataLoader worker"  # in torch's errors for that
DYING = 5.0  # seconds that a process may take from its last byte to its end
CROP = (0.8, 1.0)  # side of the random crop over the photo's shorter side
STRONG_CROP = (0.35, 1.0)
SMALLEST_CROP = 0.6  # over the training size: a smaller crop would be magnified until it is soft
LEAVES_SHARE = 0.25  # of the samples of the photos "sample" that are dead-leaves images

# scikit-image carries these in its wheel; the first list is trained on, the second never.
SAMPLE_TRAIN = (
    "astronaut.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "camera.png",
    "grass.png",
    "brick.png",
)
SAMPLE_HELD_OUT = ("chelsea.png", "coffee.png")

Skipped = tuple[str, str]  # (name, reason)
ALLOWED = (
    "sample, coco, hf:NAME[:SPLIT[:COLUMN]], a folder, or .tar or .parquet files "
    "(a file, a URL, or a pattern in quotes)"
)


class PhotoSource(Protocol):
    """A source of photos. `photo(n, attempt)` is a pure function.

    `strong` asks for strong augmentation: the photos are few. `attempt` above 0 asks for another
    photo in place of a bad one. `license` is that of the photos; `description` names it too.
    """

    description: str
    license: str
    strong: bool

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        """Return the name and the undecoded photo of a sample number. Raises: PhotosError."""
        ...


class Batch(TypedDict):
    """A batch of the loader.

    `photo` is (B, 3, S, S) uint8, `painting` the number of the painting that each is for: a list,
    which stays on the host.
    `skipped` are bad photos that others stand in for; `failure` says why the run cannot go on.
    """

    photo: Tensor
    painting: list[int]
    skipped: list[Skipped]
    failure: str | None


def open_photos(photos: str, seed: int) -> PhotoSource:
    """Return the source of photos of that name.

    It is "sample", "coco", "hf:NAME[:SPLIT[:COLUMN]]", a folder, or tars or parquet files (a file,
    a pattern or a URL, see shards.py). Raises: PhotosError.
    """
    if photos == "sample":
        return SamplePhotos(seed)
    if photos == "coco":
        return StreamPhotos(COCO, seed, "licences of their authors on Flickr")
    if photos.startswith("hf:"):
        return StreamPhotos(photos.removeprefix("hf:"), seed, "see the dataset's card")
    if not photos:  # Path("") is the working folder
        raise PhotosError("`photos` is empty: name sample, coco, hf:NAME or a folder")
    shards = find_shards(photos)
    if shards is None:
        return FolderPhotos(Path(photos), seed)
    if shards.kind == PARQUET:
        return ParquetPhotos(shards, seed)
    return TarStream(shards, seed) if is_url(shards.paths[0]) else TarPhotos(shards, seed)


def sample_folder() -> Path:
    """Return the folder in which scikit-image carries its photos."""
    import skimage

    return Path(str(skimage.data_dir))  # type: ignore[attr-defined]


def held_out_photos() -> list[Path]:
    """Return the two photos that are never trained on, for previews and scores."""
    return [sample_folder() / name for name in SAMPLE_HELD_OUT]


def example_photo() -> Path:
    """Return the photo that styles are shown on where nobody gave another: one that is held out."""
    return held_out_photos()[0]


class SamplePhotos:
    """The photos that scikit-image carries, and generated dead-leaves images between them."""

    strong = True
    license = "public domain, CC0, Middlebury Stereo 2014"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.paths = [sample_folder() / name for name in SAMPLE_TRAIN]
        missing = [p.name for p in self.paths if not p.is_file()]
        if missing:
            raise PhotosError(
                f"scikit-image carries no {', '.join(missing)}: pip install 'scikit-image>=0.25'"
            )
        self.description = (
            f"{len(self.paths)} photos of scikit-image ({self.license}) and dead-leaves images"
        )

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        rng = np.random.default_rng((self.seed, number, attempt, 1))
        if rng.random() < LEAVES_SHARE:
            return f"dead leaves {number}", Image.fromarray(dead_leaves(rng, size=320))
        path = self.paths[rng.integers(len(self.paths))]
        return str(path), _cached(path)


class FolderPhotos:
    """The image files of a folder tree, each once in a random order, then again in another."""

    strong = False
    license = NOT_KNOWN

    def __init__(self, folder: Path, seed: int) -> None:
        from datasets import Dataset as Table
        from datasets import Image as ImageFeature

        allowed = f"allowed: {ALLOWED}"
        if os.path.isfile(folder):  # unlike is_file, it takes names that are too long
            raise PhotosError(f"`photos` {folder}: a file that holds no photos; {allowed}")
        if not os.path.isdir(folder):
            raise PhotosError(f"`photos` {folder}: no such folder; {allowed}")
        paths = sorted(str(p) for p in _walk(folder))
        if not paths:
            raise PhotosError(
                f"`photos` {folder}: no images in it ({', '.join(sorted(READABLE))} are looked "
                "for, or .tar and .parquet files)"
            )
        self.seed = seed
        # Arrow keeps a hundred thousand paths in shared memory; a Python list would be copied into
        # each worker. It takes text only, and names need not be any: each byte becomes a letter.
        named = [os.fsencode(path).decode("latin-1") for path in paths]
        self.table = Table.from_dict({"image": named}).cast_column(
            "image", ImageFeature(decode=False)
        )
        self.description = f"{len(paths)} photos of the folder {folder.name} ({self.license})"
        self.strong = len(paths) < FEW

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        row = draw_row(self.seed, number, attempt, len(self.table))
        path = os.fsdecode(self.table[row]["image"]["path"].encode("latin-1"))
        return path, path


class StreamPhotos(LanePhotos):
    """A dataset of the Hub, or a local one that `datasets` can load, read as a stream in lanes."""

    def __init__(self, name: str, seed: int, license: str) -> None:
        import datasets
        import huggingface_hub

        # Each of these tries is five of the client of the Hub: some minutes in all.
        datasets.config.STREAMING_READ_MAX_RETRIES = RETRIES
        # It reports each of its retries; the last word is ours.
        huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        path, split, column = _split_name(name)
        try:
            # The user names the dataset, and datasets 4 runs no code of it: no revision is pinned.
            rows = datasets.load_dataset(path, split=split, streaming=True)  # nosec B615
        except Exception as error:  # a zoo: not found, no network, no access, unknown split
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PhotosError(
                f"`photos`: cannot open the dataset {path!r}, split {split!r} ({reason}); "
                "without a network use `photos` sample or a folder"
            ) from error
        column = column or _image_column(rows)
        self.column = column
        if rows.features is not None and column not in rows.features:
            raise PhotosError(
                f"`photos`: {path!r} has no column {column!r}; it has {', '.join(rows.features)}"
            )
        self.rows = rows.cast_column(column, datasets.Image(decode=False)).select_columns([column])
        super().__init__(name, seed, int(self.rows.num_shards))
        self.license = license
        self.description = f"the dataset {path}, split {split} ({license})"

    def read(self, shard: int) -> Iterator[tuple[str, Raw]]:
        """Yield the names and the undecoded photos of a shard."""
        rows = self.rows.shard(num_shards=self.shards, index=shard)
        # Not `for row in rows`: in a loader's worker that would deal the rows out among workers,
        # when here each worker is asked for the numbers it needs.
        for some in rows.iter(batch_size=READ_AT_ONCE):
            for value in some[self.column]:
                known = value if isinstance(value, dict) else {}
                path = known.get("path") or ""
                yield path, known.get("bytes") or path or b""


class NumberedPhotos(Dataset[Batch]):
    """Sample n of a source as a batch of one: decoded, cropped, flipped, ready for a network.

    Colours are jittered too where photos are few. Each of so many `paintings` gets one of so many
    samples, in an order that is new for each turn.
    """

    def __init__(self, source: PhotoSource, size: int, seed: int, paintings: int = 1) -> None:
        self.source = source
        self.size = size
        self.seed = seed
        self.paintings = paintings

    def __getitem__(self, number: int) -> Batch:
        skipped: list[Skipped] = []
        for attempt in range(MAX_ATTEMPTS):
            name = f"sample {number}"
            try:
                name, raw = self.source.photo(number, attempt)
                photo = self._augment(raw, name, number)
            except ImageError as error:
                skipped.append((name, str(error).removeprefix(f"{name}: ")))
                continue
            except PhotosError as error:
                return self._failed(str(error), skipped)
            return Batch(
                photo=photo, painting=[self._painting(number)], skipped=skipped, failure=None
            )
        name, reason = skipped[-1]
        message = f"`photos`: {MAX_ATTEMPTS} photos in a row cannot be used; the last was {name}"
        message = f"{message} ({reason})"
        return self._failed(message, skipped)

    def _augment(self, raw: Raw, name: str, number: int) -> Tensor:
        image = flatten(decode(raw, name, shrink_to=2 * self.size))
        w, h = image.size
        if min(w, h) < MIN_SIDE:
            raise ImageError(f"{name}: {h}x{w} pixels, at least {MIN_SIDE} are needed")
        rng = np.random.default_rng((self.seed, number, 2))
        low, high = STRONG_CROP if self.source.strong else CROP
        side = min(w, h) * float(np.exp(rng.uniform(np.log(low), np.log(high))))
        side = min(max(side, SMALLEST_CROP * self.size), min(w, h))
        left = rng.uniform(0, w - side)
        top = rng.uniform(0, h - side)
        # One crop of a square for both sides: the aspect ratio of things is kept.
        image = image.resize(
            (self.size, self.size),
            Image.Resampling.BICUBIC,
            (left, top, left + side, top + side),
            reducing_gap=2.0,
        )
        photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, S, S)
        if rng.random() < 0.5:
            photo = VF.horizontal_flip(photo)
        if self.source.strong:
            photo = VF.adjust_brightness(photo, rng.uniform(0.6, 1.4))
            photo = VF.adjust_contrast(photo, rng.uniform(0.6, 1.4))
            photo = VF.adjust_saturation(photo, rng.uniform(0.4, 1.6))
            photo = VF.adjust_hue(photo, rng.uniform(-0.3, 0.3))
        return photo.contiguous()

    def _failed(self, message: str, skipped: list[Skipped]) -> Batch:
        photo = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        return Batch(photo=photo, painting=[0], skipped=skipped, failure=message)

    def _painting(self, number: int) -> int:
        """Return the number of the painting that a sample is for: a pure function of (seed, n)."""
        turn, place = divmod(number, self.paintings)
        order = np.random.default_rng((self.seed, turn, 4)).permutation(self.paintings)
        return int(order[place])


def collate(samples: list[Batch]) -> Batch:
    """Join samples to a batch; the first failure is kept."""
    return Batch(
        photo=torch.stack([s["photo"] for s in samples]),
        painting=[number for s in samples for number in s["painting"]],
        skipped=[bad for s in samples for bad in s["skipped"]],
        failure=next((s["failure"] for s in samples if s["failure"]), None),
    )


def photo_loader(
    source: PhotoSource,
    *,
    size: int,
    batch_size: int,
    start: int,
    stop: int,
    seed: int,
    workers: int,
    paintings: int = 1,
) -> DataLoader[Batch]:
    """Return a loader of the samples from number `start` to `stop`, in batches.

    A final short batch is dropped.
    """
    return DataLoader(
        NumberedPhotos(source, size, seed, paintings),
        batch_size=batch_size,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )


def with_death_told(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches; where their process dies, raise torch's error for that and no other.

    A process that dies closes its connections first, which may break a read. Torch's RuntimeError
    follows when the process has ended, at whatever line is run then. So it is waited for here.
    Raises: RuntimeError.
    """
    try:
        yield from batches
    except (OSError, EOFError, RuntimeError) as error:
        if LOADER_DIED not in str(error):
            time.sleep(DYING)  # torch's error ends it
        raise


def _start_worker(_: int) -> None:
    """Keep a worker to one thread, and leave signals to the main process.

    Ctrl-C, torchrun and service managers signal whole process groups; a worker that died of it
    would fail the run.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=cannot_list):
        folders.sort()
        yield from (
            Path(root) / f
            for f in files
            if Path(f).suffix.lower() in READABLE and not f.startswith(".")
        )


def _split_name(name: str) -> tuple[str, str, str | None]:
    """Return dataset, split and column of "NAME[:SPLIT[:COLUMN]]"."""
    path, _, rest = name.partition(":")
    split, _, column = rest.partition(":")
    return path, split or "train", column or None


def _image_column(rows: Any) -> str:
    """Return the first column of images. Raises: PhotosError."""
    import datasets

    features = rows.features or {}
    for column, feature in features.items():
        if isinstance(feature, datasets.Image):
            return str(column)
    raise PhotosError(
        f"`photos`: no column of images among {', '.join(features) or 'none'}; "
        "name it: hf:NAME:SPLIT:COLUMN"
    )


@functools.lru_cache(maxsize=len(SAMPLE_TRAIN))
def _cached(path: Path) -> Image.Image:
    return flatten(decode(path))
