"""The base of all networks: sizes of photos, the rim around them, and the range of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import ImageError

MIN_SIDE = 32  # pixels: reflection padding needs more pixels than a rim has
STRIDE = 4  # the trunk works at 1/4 of the size
# Pixels that are mirrored around a photo and cut off again. The padding of convolutions spoils
# pixels near edges; most of these are cut off with the rim. Johnson et al. (2016) have 40.
RIM = 24
# How far the tanh reaches beyond [0, 1], so that it is not yet flat at black and white.
REACH = 0.1
# No network is larger. A file that asks for more is damaged or malicious: it would take all memory.
MAX_WIDTH = 1024
MAX_BLOCKS = 64
MAX_PAINTINGS = 1000


class StyleNetwork(nn.Module, ABC):
    """A network from photos to stylized photos of the same size, both RGB, (B, 3, H, W), in [0, 1].

    H and W are at least 32. In evaluation a photo gets a rim of mirrored pixels, which is cut off
    again, and the picture is clamped. In training there is no rim, since the objective leaves the
    margin of crops out; sides of crops must be multiples of 4. The picture may leave [0, 1] by
    `REACH` there, so that every pixel has a gradient.

    A network of many `paintings` has scales and shifts for each of them. `mix`, (B, P), gives their
    shares in each image.
    """

    rim = RIM  # pixels that are mirrored around a photo in evaluation
    multiple = STRIDE  # the sides of a photo with its rim are multiples of it

    def __init__(self, width: int, blocks: int, paintings: int) -> None:
        super().__init__()
        if width < 1 or blocks < 0 or paintings < 0:
            raise ValueError(
                "width is at least 1, blocks and paintings at least 0, "
                f"got {width}, {blocks} and {paintings}"
            )
        if width > MAX_WIDTH or blocks > MAX_BLOCKS or paintings > MAX_PAINTINGS:
            raise ValueError(
                f"width is at most {MAX_WIDTH}, blocks {MAX_BLOCKS} and paintings {MAX_PAINTINGS}, "
                f"got {width}, {blocks} and {paintings}"
            )
        self.paintings = paintings

    @staticmethod
    @abstractmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most bytes that evaluation takes for each pixel, in float32 on a CPU."""

    @abstractmethod
    def paint(self, photo: Tensor, mix: Tensor | None = None) -> Tensor:
        """Return the output of the head, (B, 3, H, W), for a photo with sides in multiples of 4."""

    def forward(self, photo: Tensor, mix: Tensor | None = None) -> Tensor:
        """Return the stylized photo.

        Raises: ImageError when a side is shorter than 32 pixels.
        """
        if self.training:
            return self.in_range(self.paint(photo, mix))
        around = with_rim(photo, self.rim, self.multiple)
        painted = self.in_range(self.paint(around, mix))
        return without_rim(painted, photo, self.rim).clamp(0, 1)

    def in_range(self, y: Tensor) -> Tensor:
        """Return the picture from the output of the head."""
        return in_range(y)


def in_range(y: Tensor) -> Tensor:
    """Return the picture from the output of a head, in [0, 1] and `REACH` beyond.

    Differs from Johnson et al. (2016): there the tanh is scaled to [0, 255] and reaches no further.
    """
    return 0.5 + (0.5 + REACH) * torch.tanh(y)


def with_rim(photo: Tensor, rim: int = RIM, multiple: int = STRIDE) -> Tensor:
    """Return a photo, (B, C, H, W), with mirrored pixels around it, to sides that are multiples.

    Raises: ImageError when a side is shorter than 32 pixels.
    """
    h, w = photo.shape[-2:]
    check_size(h, w)
    around = (rim, rim + -w % multiple, rim, rim + -h % multiple)
    return F.pad(photo, around, mode="reflect")


def without_rim(picture: Tensor, photo: Tensor, rim: int = RIM) -> Tensor:
    """Return a picture, (B, C, H', W'), without the rim: at the size of the photo."""
    h, w = photo.shape[-2:]
    part = picture[..., rim : rim + h, rim : rim + w]
    return part.reshape(photo.shape)  # tells exporters that the size is the photo's


def check_size(height: int, width: int) -> None:
    """Raise ImageError when a side is shorter than 32 pixels."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"an image of {height}x{width} pixels is too small: "
            f"both sides must be at least {MIN_SIDE}"
        )
