"""A network with few memory accesses: no feature map is ever as large as the photo.

The photo is folded to half its sides and 12 channels, without any loss (`pixel_unshuffle`). The
trunk works at 1/4 of the photo's size, like that of Johnson et al. (2016). The picture is unfolded
from half its size. The network paints every pixel itself: no part of the photo is added.
Source of folding: Shi et al. (2016), https://arxiv.org/abs/1609.05158
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.layers import ConvNorm, Trunk, enlarge
from faststyle.networks.network import StyleNetwork

COLORS = 3
FOLD = 2  # pixels a side that are folded into channels
FOLDED = COLORS * FOLD**2  # channels


class Mobile(StyleNetwork):
    """The network, with `width` channels at 1/4 of the size, and fewer at half of it.

    Example:
        >>> Mobile()(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    def __init__(self, width: int = 96, blocks: int = 5, paintings: int = 0) -> None:
        super().__init__(width, blocks, paintings)
        half = max(1, width // 2)
        self.encode1 = ConvNorm(FOLDED, max(1, width // 4), 3, paintings=paintings)
        self.encode2 = ConvNorm(max(1, width // 4), width, 3, stride=2, paintings=paintings)
        self.trunk = Trunk(width, blocks, paintings)
        self.decode = ConvNorm(width, half, 3, paintings=paintings)
        self.head = nn.Conv2d(half, FOLDED, 3, padding=1, padding_mode="reflect")
        self._start_smooth()

    @torch.no_grad()
    def _start_smooth(self) -> None:
        """Start with equal values for the four pixels that are unfolded from one place, near grey.

        Otherwise there is a lattice from the first step on, at full contrast.
        Source: Aitken et al., "Checkerboard artifact free sub-pixel convolution" (2017),
        https://arxiv.org/abs/1707.02937
        """
        # pixel_shuffle makes each run of four channels the 2x2 pixels of one colour.
        for values in self.head.parameters():
            values.copy_(0.1 * values[:: FOLD**2].repeat_interleave(FOLD**2, 0))

    @staticmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most bytes that evaluation takes, for each pixel of the photo."""
        return 120 + width

    def paint(self, photo: Tensor, mix: Tensor | None = None) -> Tensor:
        """Return the output of the head, (B, 3, H, W), for a photo with sides in multiples of 4."""
        y = self.encode1(F.pixel_unshuffle(photo, FOLD), True, mix)
        y = self.encode2(y, True, mix)
        y = self.trunk(y, mix)
        y = self.decode(enlarge(y), True, mix)
        return without_lattice(F.pixel_shuffle(self.head(y), FOLD))


def without_lattice(image: Tensor) -> Tensor:
    """Return (B, C, H, W) as means over 2x2 pixels, each pixel with its neighbours below and right.

    This removes a lattice of period 2, and leaves 0.7 of waves of 4 pixels. Unfolding alone would
    leave a lattice: it is the cheapest texture, and networks fill all flat places with it.
    """
    return F.avg_pool2d(F.pad(image, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
