"""Checks and sizes of the pictures that the judge compares."""

from __future__ import annotations

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faststyle.errors import ImageError
from faststyle.images import read_image, to_pil
from faststyle.sizes import fitted_size

SMALLEST = 64  # pixels: at a quarter of it, relu5_1 is one pixel
# pixels: in smaller pictures the bins around one frequency of a grid reach into the next frequency
SMALLEST_GRID = 96
RANGE_SLACK = 1 / 255  # resampling may leave [0, 1] by this much


def checked(image: Tensor, name: str, smallest: int = SMALLEST) -> Tensor:
    """Return the image, detached, if it can be judged: (1, 3, H, W), finite, in [0, 1].

    Raises: ImageError with the first fault, and `name` as its subject.
    """
    if image.dim() != 4 or image.shape[:2] != (1, 3) or not image.is_floating_point():
        raise ImageError(
            f"{name} is a {image.dtype} tensor of shape {tuple(image.shape)}; "
            "allowed: one picture, float RGB in [0, 1], (1, 3, H, W)"
        )
    if min(image.shape[-2:]) < smallest:
        raise ImageError(
            f"{name} has {size_text(image)} pixels, too few to be judged; "
            f"its shorter side must be at least {smallest} pixels"
        )
    if not image.isfinite().all():
        raise ImageError(
            f"{name} has values that are not finite; if a network painted it, train that anew"
        )
    image = image.detach()
    low = float(image.min())
    high = float(image.max())
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise ImageError(
            f"{name} has values from {low:.3g} to {high:.3g}; "
            "allowed: 0 to 1, clamp or scale it first"
        )
    return image


def size_text(image: Tensor) -> str:
    """Return "HxW"."""
    return "x".join(str(side) for side in image.shape[-2:])


def centre_square(image: Tensor) -> Tensor:
    """Return the largest square in the middle of (..., H, W)."""
    h, w = image.shape[-2:]
    side = min(h, w)
    top = (h - side) // 2
    left = (w - side) // 2
    return image[..., top : top + side, left : left + side]


def resize_shorter(image: Tensor, size: int) -> Tensor:
    """Return (1, 3, H, W) with a shorter side of `size` pixels: Pillow's Lanczos, 8 bits."""
    return resize_lanczos(image, *fitted_size(image.shape[-2], image.shape[-1], size))


def resize_lanczos(image: Tensor, height: int, width: int) -> Tensor:
    """Return (1, 3, height, width): Pillow's Lanczos, 8 bits."""
    return read_image(to_pil(image).resize((width, height), Image.Resampling.LANCZOS))


def shrink(image: Tensor, scale: int) -> Tensor:
    """Return (1, C, H, W) at 1 / `scale` of its size, antialiased, in float32."""
    image = image.float()
    if scale == 1:
        return image
    size = [round(side / scale) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)
