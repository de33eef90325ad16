"""Sizes of pictures, and pictures of other sizes: resized, cropped, mirrored.

Pictures are (1, C, H, W), float32 in [0, 1].
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from faststyle.errors import ImageError

STRIP = 4  # a picture whose longer side is more than so many times the shorter one is a strip


def parse_size(text: str, smallest: int) -> tuple[int, int]:
    """Return height and width of "480x848", each `smallest` or more. Raises: ImageError."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(map(int, found.groups())) < smallest:
        raise ImageError(
            f"`size` {text}: HEIGHTxWIDTH is needed, both {smallest} or more, as in 480x848"
        )
    return int(found[1]), int(found[2])


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the (height, width) that an image has once its shorter side has `size` pixels."""
    scale = size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_shorter(image: Tensor, size: int) -> Tensor:
    """Return (1, C, H, W) in [0, 1] with a shorter side of `size` pixels (antialiased bicubic)."""
    return resize(image, *fitted_size(image.shape[-2], image.shape[-1], size))


def bounded_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return `fitted_size`, but of a strip the size with the area that it has at 4:1.

    Otherwise a strip of 2000x20 pixels would be looked at as 38400x384, in gigabytes.
    """
    shape = max(height, width) / min(height, width)
    if shape > STRIP:
        size = max(1, round(size * math.sqrt(STRIP / shape)))
    return fitted_size(height, width, size)


def fit_bounded(image: Tensor, size: int) -> Tensor:
    """Return (1, C, H, W) as `fit_shorter` does, but a strip in its `bounded_size`."""
    return resize(image, *bounded_size(image.shape[-2], image.shape[-1], size))


def cut_strip(image: Tensor) -> Tensor:
    """Return the middle of a strip, 4:1; a picture of any other shape as it is."""
    h, w = image.shape[-2:]
    longest = STRIP * min(h, w)
    top = max(0, h - longest) // 2
    left = max(0, w - longest) // 2
    return image[..., top : top + longest, left : left + longest]


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return (1, C, height, width), resized from (1, C, H, W) in [0, 1] (antialiased bicubic)."""
    if image.shape[-2:] == (height, width):
        return image
    return torch.nn.functional.interpolate(
        image, (height, width), mode="bicubic", antialias=True
    ).clamp(0, 1)


def mirror_to(image: Tensor, side: int) -> Tensor:
    """Return (B, C, H, W) with sides of `side` pixels or more, mirrored at the bottom and right.

    Unlike torch's padding it mirrors as often as needed, from one pixel on.
    """
    for dim in (-2, -1):
        length = image.shape[dim]
        if length < side:
            there_and_back = [*range(length), *reversed(range(length))]
            order = [there_and_back[i % len(there_and_back)] for i in range(side)]
            image = image.index_select(dim, torch.tensor(order, device=image.device))
    return image


def crop_centre(image: Tensor, size: int) -> Tensor:
    """Return the middle (1, C, size, size) of an image, resized to a shorter side of `size`."""
    image = fit_shorter(image, size)
    h, w = image.shape[-2:]
    top = (h - size) // 2
    left = (w - size) // 2
    return image[..., top : top + size, left : left + size]
