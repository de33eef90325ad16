"""The judge of one painting, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor

from faststyle.errors import ImageError
from faststyle.images import ImageSource, read_image
from faststyle.judge.features import (
    CLEAR,
    CONTENT_LAYER,
    LAYERS,
    TINY,
    content_error,
    content_features,
    judged_features,
    painting_layers,
    style_distance,
)
from faststyle.judge.pictures import (
    SMALLEST_GRID,
    centre_square,
    checked,
    resize_lanczos,
    resize_shorter,
    size_text,
)
from faststyle.judge.pixels import border, edges, grid, high_frequency, light, stripes
from faststyle.paintings import read_painting
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import find_weights, load_vgg
from faststyle.sizes import bounded_size, cut_strip

SIZE = 256  # pixels, the side of the protocol's photos
PAINTING_SCALE = 1.5  # shorter side of the painting over the side of the photos


@dataclass(frozen=True)
class Scores:
    """Scores of the outputs of several photos; most are means, `grid` and `stripes` are medians.

    `style_distance` is the distance of the outputs from the painting (features.py), and
    `style_closed` the share of the photos' own distance that is gone: 1 is the painting's style.
    `content_distance` is the error of relu4_2 at full size over the photo's variance.
    `clear_distance` is the mean of such errors over five layers and scales (`CLEAR`): large shapes,
    light and shade count in it. `style_closed` and both distances of content are ratios of means
    over photos, so that no photo weighs more for being close to start with.

    `light`, `grid`, `stripes`, `border`, `edges` and `high_frequency` are the functions of
    pixels.py. `edges` is one value for all photos together; of a few photos, it is mostly chance.
    """

    style_distance: float
    style_closed: float
    content_distance: float
    clear_distance: float
    light: float
    grid: float
    stripes: float
    border: float
    edges: float
    high_frequency: float
    photos: int


class Judge:
    """Scores outputs against one painting, on the device of `vgg`, which is built with `LAYERS`.

    `painting` is RGB, (1, 3, H, W), in [0, 1], of any size: it is resized to a shorter side of 1.5
    `size` (Lanczos), a strip to its `bounded_size`. `size` is the side of the photos and outputs in
    pixels, at least 96. Raises: ImageError.

    Example:
        >>> judge = Judge.load("painting.jpg")
        >>> photos = [protocol_photo(path) for path in paths]
        >>> judge.score([stylizer(photo) for photo in photos], photos).style_closed
    """

    def __init__(self, vgg: VGG, painting: Tensor, size: int = SIZE) -> None:
        if size < SMALLEST_GRID:
            raise ImageError(
                f"pictures of {size}x{size} pixels are too small to be judged; "
                f"use {SMALLEST_GRID} or more"
            )
        self.vgg = vgg
        self.size = size
        painting = checked(painting, "the painting", 1)
        h, w = painting.shape[-2:]
        self.painting = resize_lanczos(painting, *bounded_size(h, w, round(PAINTING_SCALE * size)))
        self._painting_layers = painting_layers(vgg, self.painting)
        self._photo_distances: dict[bytes, float] = {}  # by the photo's digest

    @classmethod
    def load(
        cls, painting: ImageSource, vgg_weights: Path | None = None, size: int = SIZE
    ) -> Judge:
        """Return the judge of a painting, with VGG-16 weights from a file or the default place.

        Raises: ImageError, WeightsError.
        """
        vgg = load_vgg(find_weights("vgg16", vgg_weights), LAYERS)
        vgg = vgg.to(memory_format=torch.channels_last)  # the faster layout
        return cls(vgg, read_painting(painting), size)

    def score(self, outputs: Sequence[Tensor], photos: Sequence[Tensor]) -> Scores:
        """Return the scores of `outputs`, each of the photo at the same place in `photos`.

        All are RGB, (1, 3, size, size), in [0, 1]. The photos' own distances are kept for the next
        call. Raises: ImageError for other shapes and values, none at all, or differing counts.
        """
        if len(outputs) != len(photos) or not photos:
            raise ImageError(
                f"{len(outputs)} outputs of {len(photos)} photos; "
                "give one output of each photo, at least one"
            )
        outputs = [self._sized(output, f"output {i}") for i, output in enumerate(outputs, 1)]
        photos = [self._sized(photo, f"photo {i}") for i, photo in enumerate(photos, 1)]
        distance = 0.0
        photo_distance = 0.0
        errors = dict.fromkeys(CLEAR, 0.0)
        variances = dict.fromkeys(CLEAR, 0.0)
        # One photo at a time, since the features of many would take much memory.
        for output, photo in zip(outputs, photos, strict=True):
            gaussians, content = judged_features(self.vgg, output)
            targets = content_features(self.vgg, photo)
            for key in CLEAR:
                error, variance = content_error(content[key], targets[key])
                errors[key] += error
                variances[key] += variance
            distance += style_distance(gaussians, self._painting_layers) / len(photos)
            photo_distance += self._photo_distance(photo) / len(photos)
        distances = {key: errors[key] / max(variances[key], TINY) for key in CLEAR}
        return Scores(
            style_distance=distance,
            style_closed=1 - distance / max(photo_distance, TINY),
            content_distance=distances[CONTENT_LAYER, 1],
            clear_distance=fmean(distances.values()),
            light=fmean(map(light, outputs, photos)),
            grid=median(map(grid, outputs)),
            stripes=median(map(stripes, outputs)),
            border=fmean(map(border, outputs, photos)),
            edges=edges(outputs, photos),
            high_frequency=fmean(high_frequency(output, self.painting) for output in outputs),
            photos=len(photos),
        )

    def _photo_distance(self, photo: Tensor) -> float:
        key = hashlib.sha256(photo.float().cpu().contiguous().numpy().tobytes()).digest()
        if key not in self._photo_distances:
            gaussians, _ = judged_features(self.vgg, photo)
            self._photo_distances[key] = style_distance(gaussians, self._painting_layers)
        return self._photo_distances[key]

    def _sized(self, image: Tensor, name: str) -> Tensor:
        image = checked(image, name)
        if image.shape[-2:] != (self.size, self.size):
            raise ImageError(
                f"{name} has {size_text(image)} pixels, this judge compares "
                f"{self.size}x{self.size}; cut photos with protocol_photo before they are stylized"
            )
        return image


def protocol_photo(image: ImageSource, size: int = SIZE) -> Tensor:
    """Return the middle (1, 3, size, size) of a photo, resized to that shorter side (Lanczos).

    Raises: ImageError.
    """
    if size < 1:
        raise ImageError(f"a photo cannot have {size} pixels a side; use 1 or more")
    # A strip is cut first: else a side of 10 pixels would make the other one a hundred thousand.
    return centre_square(resize_shorter(cut_strip(read_image(image)), size))
