"""A network made for few memory accesses: every convolution sees a sixteenth of the pixels.

The photo is folded to 1/4 of its sides, 48 channels, with nothing lost (`pixel_unshuffle`; Shi et al. 2016), and the
picture is unfolded from as many, so that no feature map is ever as large as the photo. What is unfolded goes through a
fixed filter, in which every stripe of 4 and of 2 pixels vanishes, which unfolding alone would leave, and those of 3, in
which networks hide texture that nobody painted: of what repeats within 4 pixels next to nothing is left.
Source of folding: https://arxiv.org/abs/1609.05158
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.layers import BOXES, ConvNorm, Residual
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


def folded_filter(size: int, boxes: Sequence[int] = BOXES) -> Tensor:
    """Return the filter that is `boxes`, means over so many pixels, one after the other, for images folded by `size`.

    (size², size², 3, 3): what each pixel of `size` x `size` takes from those around it. A mean over n pixels is blind
    to every stripe whose period divides n. Together the boxes reach no further than `size` pixels.
    """
    kernel = torch.ones(1, 1, 1)
    for box in boxes:
        kernel = F.conv1d(kernel, torch.full((1, 1, box), 1 / box), padding=box - 1)
    reach = kernel.numel() // 2
    assert reach <= size
    assert kernel.numel() % 2
    taps = torch.zeros(size, size, 3)  # to, from, and in which of three neighbours
    for to in range(size):
        for neighbour in range(3):
            for source in range(size):
                away = size * (neighbour - 1) + source - to
                if abs(away) <= reach:
                    taps[to, source, neighbour] = kernel[0, 0, reach + away]
    return torch.einsum("aim,bjn->abijmn", taps, taps).reshape(size**2, size**2, 3, 3)
