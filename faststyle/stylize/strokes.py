"""Strokes in proportion to the picture: the network paints a small photo first, then the whole one.

A network has strokes of so many pixels, so they shrink in large photos. Enlarging a small picture
would keep their size, and lose crisp edges and detail. So the strokes of the small picture are
drawn into the photo, and the network paints that, at full size: it follows what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from faststyle.perceptual.light import luminance
from faststyle.sizes import fit_shorter

AUTO = "auto"  # the size of strokes that is in proportion to the picture
SIDE = 512  # pixels: shorter side at which strokes have their size. Smaller photos stay as they are
RADIUS = 4  # pixels of the small picture around each, in which the photo is to explain the picture
STRENGTH = 0.5  # share of the contrast of strokes that is drawn; with 1 outlines and faces suffer
FLAT = 1e-3  # variance of luma in [0, 1] below which a place counts as flat; 0.032 is its root


def parse_stroke_size(text: str) -> float | str:
    """Return the size of strokes that a text means: a number, or `AUTO`. Raises: ValueError."""
    return AUTO if text == AUTO else float(text)


def draw_strokes(photo: Tensor, paint: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a photo with the strokes drawn in that it has with a shorter side of `SIDE` pixels.

    `photo` is (B, 3, H, W) in [0, 1], and so is the result. `paint` is the network; it is called
    with a smaller photo, (B, 3, H', W'). A photo that is not larger than that is returned as it is.
    """
    if min(photo.shape[-2:]) <= SIDE:
        return photo
    small = fit_shorter(photo, SIDE)
    strokes = _unexplained(luminance(paint(small)), luminance(small))
    enlarged = interpolate(strokes, photo.shape[-2:], mode="bicubic", antialias=True)
    return photo.add(enlarged, alpha=STRENGTH).clamp_(0, 1)


def _unexplained(picture: Tensor, photo: Tensor) -> Tensor:
    """Return what is in a picture that its photo does not explain, both (B, 1, H, W).

    It is what the guided filter takes away: the error of a line, picture = a photo + b, that is
    fitted around each pixel. So edges of the photo are left out, and strokes are left.

    Source: He, Sun and Tang, "Guided image filtering" (2010), equations 5, 6 and 8,
    https://doi.org/10.1007/978-3-642-15549-9_1.
    """
    mean_photo = _mean(photo)
    mean_picture = _mean(picture)
    covariance = _mean(photo * picture) - mean_photo * mean_picture
    variance = _mean(photo.square()) - mean_photo.square()
    a = covariance / (variance + FLAT)
    b = mean_picture - a * mean_photo
    return picture - (_mean(a) * photo + _mean(b))


def _mean(x: Tensor) -> Tensor:
    """Return the mean around each pixel, of those pixels that are in the picture."""
    return avg_pool2d(x, 2 * RADIUS + 1, stride=1, padding=RADIUS, count_include_pad=False)
