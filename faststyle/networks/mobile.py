"""A network made for few memory accesses: all but the last two convolutions see a sixteenth of the pixels.

The photo is folded to 1/4 of its sides, 48 channels, with nothing lost (`pixel_unshuffle`; Shi et al. 2016), so that no
feature map is ever as large as the photo. The head works at half size and unfolds to full size, the rest is a filter.
Source of folding: https://arxiv.org/abs/1609.05158
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.layers import ConvNorm, Residual, enlarge, smooth
from faststyle.networks.start import STRIDE, Start, StyleNetwork

UNFOLD = 2  # of the head


class Mobile(StyleNetwork):
    """Photo to stylized photo, with `width` channels in the trunk and half as many in the decoder.

    Example:
        >>> Mobile()(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    def __init__(self, width: int = 32, blocks: int = 5, start: Start = "palette") -> None:
        super().__init__(start)
        if width < 2 or blocks < 0:
            raise ValueError(f"width is at least 2 and blocks at least 0, got {width} and {blocks}")
        self.stem = ConvNorm(3 * STRIDE**2, width, 3)
        self.trunk = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.decode = ConvNorm(width, width // 2, 3)
        self.head = nn.Conv2d(width // 2, 3 * UNFOLD**2, 3, padding=1, padding_mode="reflect")
        self.begin(self.head)

    @staticmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most memory that evaluation takes: measured (docs/log.md), with a tenth added."""
        return 60 + 3 * width

    def paint(self, photo: Tensor) -> Tensor:
        """Return what is added to a photo, (B, 3, H, W)."""
        y = self.stem(F.pixel_unshuffle(photo, STRIDE), relu=True)
        y = self.decode(enlarge(self.trunk(y)), relu=True)
        # The first filter takes away the stripes of 4 pixels that enlarging leaves, the second those of 2 pixels that
        # unfolding leaves.
        return smooth(F.pixel_shuffle(smooth(self.head(y)), UNFOLD))
