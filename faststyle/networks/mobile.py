"""A network made for few memory accesses: every convolution sees a sixteenth of the pixels.

The photo is folded to 1/4 of its sides, 48 channels, with nothing lost (`pixel_unshuffle`; Shi et al. 2016), and the
picture is unfolded from as many, so that no feature map is ever as large as the photo. What is unfolded goes through a
fixed filter, in which every stripe of 4 and of 2 pixels vanishes: those that unfolding alone would leave.
Source of folding: https://arxiv.org/abs/1609.05158
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.layers import ConvNorm, Residual
from faststyle.networks.start import STRIDE, Start, StyleNetwork

COLORS = 3
FOLDED = COLORS * STRIDE**2  # channels


class Mobile(StyleNetwork):
    """Photo to stylized photo, with `width` channels everywhere.

    Example:
        >>> Mobile()(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    filter: Tensor  # (48, 16, 3, 3): for each colour, from 4x4 pixels and their neighbours to 4x4 pixels

    def __init__(self, width: int = 32, blocks: int = 5, start: Start = "palette") -> None:
        super().__init__(start)
        if width < 1 or blocks < 0:
            raise ValueError(f"width is at least 1 and blocks at least 0, got {width} and {blocks}")
        self.stem = ConvNorm(FOLDED, width, 3)
        self.trunk = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.decode = ConvNorm(width, width, 3)
        self.head = nn.Conv2d(width, FOLDED, 3)  # of features with a border for it and for the filter
        self.register_buffer("filter", folded_filter(STRIDE).repeat(COLORS, 1, 1, 1), persistent=False)
        self.begin(self.head)

    @staticmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most memory that evaluation takes: measured (docs/log.md), with a tenth added."""
        return 120 + width

    def features(self, folded: Tensor) -> Tensor:
        """Return what the head sees, (B, width, h + 4, w + 4), of a folded photo (B, 48, h, w)."""
        y = self.decode(self.trunk(self.stem(folded, relu=True)), relu=True)
        return F.pad(y, (2, 2, 2, 2), mode="reflect")

    def paint(self, photo: Tensor) -> Tensor:
        """Return what is added to a photo, (B, 3, H, W)."""
        y = self.head(self.features(F.pixel_unshuffle(photo, STRIDE)))
        return F.pixel_shuffle(F.conv2d(y, self.filter, groups=COLORS), STRIDE)


def folded_filter(size: int) -> Tensor:
    """Return the filter that is a triangle of 2 `size` - 1 pixels along both sides, for folded images.

    (size², size², 3, 3): what each pixel of `size` x `size` takes from those around it. The triangle is a box of `size`
    pixels applied twice, and a mean over `size` pixels is blind to every stripe that `size` is a multiple of.
    """
    taps = torch.zeros(size, size, 3)  # to, from, and in which of three neighbours
    for to in range(size):
        for neighbour in range(3):
            for source in range(size):
                away = abs(size * (neighbour - 1) + source - to)
                taps[to, source, neighbour] = max(0, size - away) / size**2
    return torch.einsum("aim,bjn->abijmn", taps, taps).reshape(size**2, size**2, 3, 3)
