"""The image transformation network of Johnson et al. (2016).

It has a strided encoder, a residual trunk, and a decoder that enlarges.
Source: J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual losses for real-time style transfer and
super-resolution", supplementary material, Table 1, https://arxiv.org/abs/1603.08155
"""

from __future__ import annotations

from torch import Tensor, nn

from faststyle.networks.layers import ConvNorm, Trunk, enlarge
from faststyle.networks.network import StyleNetwork


class Johnson(StyleNetwork):
    """The network of the paper, from photo to stylized photo.

    `width` is the number of channels of the first convolution: 32 is the paper's network
    (1,679,235 parameters).

    Example:
        >>> network = Johnson()
        >>> sum(p.numel() for p in network.parameters())
        1679235
        >>> network(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    def __init__(self, width: int = 32, blocks: int = 5, paintings: int = 0) -> None:
        super().__init__(width, blocks, paintings)
        w = width
        p = paintings
        self.encode1 = ConvNorm(3, w, 9, paintings=p)
        self.encode2 = ConvNorm(w, 2 * w, 3, stride=2, paintings=p)
        self.encode3 = ConvNorm(2 * w, 4 * w, 3, stride=2, paintings=p)
        self.trunk = Trunk(4 * w, blocks, p)
        # Differs from Johnson et al. (2016): bilinear upsampling and a convolution instead of a
        # convolution of stride 1/2, which leaves checkerboards.
        self.decode1 = ConvNorm(4 * w, 2 * w, 3, paintings=p)
        self.decode2 = ConvNorm(2 * w, w, 3, paintings=p)
        self.head = nn.Conv2d(w, 3, 9, padding=4, padding_mode="reflect")

    @staticmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most bytes that evaluation takes: measured (docs/log/), plus a tenth."""
        return 180 + 20 * width

    def enlarge(self, y: Tensor) -> Tensor:
        """Return features at twice the height and width."""
        return enlarge(y)

    def paint(self, photo: Tensor, mix: Tensor | None = None) -> Tensor:
        """Return the output of the head, (B, 3, H, W), for a photo with sides in multiples of 4."""
        y = self.encode1(photo, True, mix)
        y = self.encode2(y, True, mix)
        y = self.encode3(y, True, mix)
        y = self.trunk(y, mix)
        y = self.decode1(self.enlarge(y), True, mix)
        y = self.decode2(self.enlarge(y), True, mix)
        out: Tensor = self.head(y)
        return out
