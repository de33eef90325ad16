"""`faststyle judge`: what the judge says of a checkpoint, or of pictures that anything made."""

from __future__ import annotations

from pathlib import Path

from faststyle.checkpoint import find_checkpoint
from faststyle.compare.slow_vs_fast import list_photos
from faststyle.errors import ImageError
from faststyle.images import ImageSource, read_image
from faststyle.judge import LAYERS, Judge, Scores, protocol_photo
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
) -> tuple[Scores, str]:
    """Return the scores of `subject` on the photos of a folder, and the id of the VGG weights.

    `subject` is a checkpoint, by file or name, or a folder of pictures named as the photos are, of
    any extension. Photos are cropped to the protocol's 256x256, pictures that were made from whole
    photos with them. Raises: ImageError, CheckpointError, RecipeError, WeightsError, DeviceError.
    """
    files = list_photos(Path(photos), limit)
    painting = read_image(style)
    weights = find_weights("vgg16", vgg_weights)
    judge = Judge(load_vgg(weights, LAYERS), painting)
    crops = [protocol_photo(read_image(file)) for file in files]
    if Path(subject).is_dir():
        folder = Path(subject)
        by_stem = {p.stem: p for p in list_photos(folder, option="")}
        # The whole name goes first: it tells photos apart that differ in their extension only.
        pictures = [
            p if (p := folder / file.name).is_file() else by_stem.get(file.stem) for file in files
        ]
        missing = [
            file.name for file, picture in zip(files, pictures, strict=True) if picture is None
        ]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ImageError(
                f"{subject}: no picture named as {missing[0]}{more}; name pictures as their photos"
            )
        outputs = [
            protocol_photo(read_image(picture)) for picture in pictures if picture is not None
        ]
    else:
        stylizer = Stylizer.load(
            find_checkpoint(str(subject)), engine="torch", device=device, precision="float32"
        )
        outputs = [stylizer(crop) for crop in crops]
    return judge.score(outputs, crops), weights.id
