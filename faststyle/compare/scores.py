"""`faststyle judge`: the judge's scores of a checkpoint, or of pictures from any source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from faststyle.checkpoint import find_checkpoint
from faststyle.compare.slow_vs_fast import list_photos
from faststyle.errors import ImageError
from faststyle.images import ImageSource, read_image
from faststyle.judge import LAYERS, Judge, Scores, protocol_photo
from faststyle.paintings import painting_note, read_painting
from faststyle.perceptual.weights import find_weights, load_vgg
from faststyle.stylize.stylizer import Stylizer


def judge_results(
    subject: str | Path,
    style: ImageSource,
    photos: str | Path,
    *,
    limit: int | None = None,
    vgg_weights: Path | None = None,
    device: str = "auto",
    announce: Callable[[str], None] = lambda line: None,
) -> tuple[Scores, str]:
    """Return the scores of `subject` on the photos of a folder, and the id of the VGG weights.

    `subject` is a checkpoint, by file or name, or a folder of pictures that have the names of the
    photos, with any extension. Photos are cropped to the protocol's 256x256, and so are pictures.
    `announce` is given a line where the painting suits badly.
    Raises: ImageError, CheckpointError, RecipeError, WeightsError, DeviceError.
    """
    files = list_photos(Path(photos), limit)
    painting = read_painting(style)
    if note := painting_note(painting, style):
        announce(f"note: {note}")
    weights = find_weights("vgg16", vgg_weights)
    judge = Judge(load_vgg(weights, LAYERS), painting)
    crops = [protocol_photo(read_image(file)) for file in files]
    if Path(subject).is_dir():
        outputs = [protocol_photo(read_image(p)) for p in _named_alike(Path(subject), files)]
    else:
        path = find_checkpoint(str(subject))
        stylizer = Stylizer.load(path, device=device, engine="torch", precision="float32")
        outputs = [stylizer(crop) for crop in crops]
    return judge.score(outputs, crops), weights.id


def _named_alike(folder: Path, photos: Sequence[Path]) -> list[Path]:
    """Return the picture in `folder` for each photo. Raises: ImageError where one is missing."""
    there = list_photos(folder, option="")
    by_stem = {p.stem: p for p in there}
    count = Counter(p.stem for p in there)
    pictures = []
    missing = []
    for photo in photos:
        # The whole name goes first: it tells photos apart that differ in their extension only.
        whole = folder / photo.name
        picture = whole if whole.is_file() else by_stem.get(photo.stem)
        if picture is not None and picture != whole and count[photo.stem] > 1:
            raise ImageError(f"{folder}: several pictures named {photo.stem}; which is {photo}?")
        if picture is None:
            missing.append(photo.name)
        else:
            pictures.append(picture)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ImageError(
            f"{folder}: no picture named as {missing[0]}{more}; name pictures as their photos"
        )
    return pictures
