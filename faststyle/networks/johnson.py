"""The image transformation network of Johnson et al. (2016): strided encoder, residual trunk, upsampling decoder.

Source: J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution",
supplementary material, Table 1, https://arxiv.org/abs/1603.08155
"""

from __future__ import annotations

from torch import Tensor, nn

from faststyle.networks.layers import ConvNorm, Residual, enlarge, smooth
from faststyle.networks.start import Start, StyleNetwork


class Johnson(StyleNetwork):
    """The network of the paper, from photo to stylized photo.

    `width` is the number of channels of the first convolution: 32 is the paper's network (1,679,235 parameters). With
    `start` "random" its head is the paper's scaled tanh.

    Example:
        >>> network = Johnson()
        >>> sum(p.numel() for p in network.parameters())
        1679235
        >>> network(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    def __init__(self, width: int = 32, blocks: int = 5, start: Start = "palette") -> None:
        super().__init__(start)
        if width < 1 or blocks < 0:
            raise ValueError(f"width is at least 1 and blocks at least 0, got {width} and {blocks}")
        w = width
        self.encode1 = ConvNorm(3, w, 9)
        self.encode2 = ConvNorm(w, 2 * w, 3, stride=2)
        self.encode3 = ConvNorm(2 * w, 4 * w, 3, stride=2)
        self.trunk = nn.Sequential(*(Residual(4 * w) for _ in range(blocks)))
        # Differs from Johnson et al. (2016): bilinear upsampling and a convolution instead of a convolution of stride
        # 1/2, which leaves checkerboards.
        self.decode1 = ConvNorm(4 * w, 2 * w, 3)
        self.decode2 = ConvNorm(2 * w, w, 3)
        self.head = nn.Conv2d(w, 3, 9, padding=4, padding_mode="reflect")
        self.begin(self.head)

    @staticmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most memory that evaluation takes: measured (docs/log.md), with a tenth added."""
        return 180 + 20 * width

    def paint(self, photo: Tensor) -> Tensor:
        """Return what is added to a photo, (B, 3, H, W)."""
        y = self.encode1(photo, relu=True)
        y = self.encode2(y, relu=True)
        y = self.encode3(y, relu=True)
        y = self.trunk(y)
        y = self.decode1(enlarge(y), relu=True)
        y = self.decode2(enlarge(y), relu=True)
        return smooth(self.head(y))
