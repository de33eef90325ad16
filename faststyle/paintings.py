"""Reading paintings: those that hold no style to be learned are refused.

Training, the slow path and the judge read their paintings here. A painting of one colour, or of a
few pixels, would give a network that paints one colour, after all the time that training takes.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from faststyle.errors import ImageError
from faststyle.images import ImageSource, read_image
from faststyle.sizes import STRIP, fit_bounded

SEEN = 384  # pixels: shorter side at which training and the judge look at a painting
# Pixels of the shorter side. The critic looks at patches of 40 pixels at a side of 384: below 32,
# such a patch is made of three pixels.
SMALLEST = 32
SMALL = 128  # pixels of the shorter side; below it, a painting is magnified until strokes are soft
LONGEST = 32  # longer side over the shorter one; below it, a strip is seen 136 pixels high or more
# Standard deviation of the pixels below which a painting has no texture. Grain of a scanned sheet
# of white paper is less, pale watercolours are ten times as much.
FLAT = 2 / 255


def read_painting(source: ImageSource) -> Tensor:
    """Return a painting as RGB, (1, 3, H, W), in [0, 1].

    Raises: ImageError for a picture that cannot be read, and for one without texture, too small, or
    too long.
    """
    image = read_image(source)
    check_painting(image, _name(source))
    return image


def check_painting(image: Tensor, name: str) -> None:
    """Raise ImageError where there is no style to be learned from a painting, (1, 3, H, W)."""
    h, w = image.shape[-2:]
    shorter = min(h, w)
    if shorter < SMALLEST:
        raise ImageError(
            f"{name}: {h}x{w} pixels are too few to have strokes; a painting needs {SMALLEST} a "
            f"side, and {SEEN} are better"
        )
    if max(h, w) > LONGEST * shorter:
        raise ImageError(
            f"{name}: {h}x{w} pixels are longer than {LONGEST}:1; use a part of the painting"
        )
    spread = float(fit_bounded(image, min(shorter, SEEN)).std((-2, -1)).max())
    if spread < FLAT:
        raise ImageError(
            f"{name}: all of one colour, there is no style to be learned; use another painting"
        )


def painting_note(image: Tensor, source: ImageSource) -> str:
    """Return one line on a painting that is taken, but suits badly; "" for any other."""
    h, w = image.shape[-2:]
    name = _name(source)
    if min(h, w) < SMALL:
        return (
            f"{name}: {h}x{w} pixels are few, its strokes will be soft; a shorter side of {SEEN} "
            "pixels is better"
        )
    if max(h, w) > STRIP * min(h, w):
        return (
            f"{name}: longer than {STRIP}:1, so it is looked at smaller, and its strokes will be "
            "finer than painted; use a part of it for strokes as painted"
        )
    return ""


def _name(source: ImageSource) -> str:
    return str(source) if isinstance(source, str | Path) else "the painting"
