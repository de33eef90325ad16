"""The image transformation network of Johnson et al. (2016): strided encoder, residual trunk, upsampling decoder.

Source: J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution",
supplementary material, Table 1, https://arxiv.org/abs/1603.08155
Instance normalisation: Ulyanov et al. (2016), https://arxiv.org/abs/1607.08022
Resize-convolution: Odena et al. (2016), https://distill.pub/2016/deconv-checkerboard/
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import ImageError

MIN_SIDE = 16  # pixels: at 1/4 resolution the reflection padding of the trunk still has pixels to mirror
STRIDE = 4  # the trunk works at 1/4 resolution


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al. 2016, equation 4).

    Not `nn.InstanceNorm2d`, which reshapes to a batch normalisation: that copies channels-last tensors twice, and
    is exported as one. Statistics are float32 whatever the precision of the convolutions.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)  # (B, C, 1, 1)
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(var + self.eps)
        shift = self.bias.view(1, -1, 1, 1) - mean * scale
        return torch.addcmul(shift, x, scale).to(x.dtype)


class ConvNorm(nn.Sequential):
    """Reflection padding, convolution and instance normalisation, at the size of the input divided by `stride`.

    Differs from Johnson et al. (2016): instance instead of batch normalisation, and reflection padding in each
    convolution instead of zeros there and 40 mirrored pixels around the image.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect"),
            InstanceNorm(outputs),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection, with no ReLU after the sum (Gross and Wilber, 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


class Johnson(nn.Module):
    """Photo in, stylized photo out, of the same size; RGB, (B, 3, H, W), in [0, 1], H and W >= 16.

    `width` is the number of channels of the first convolution: 32 is the paper's network (1,679,235 parameters).
    `start` is where training starts from: "identity" adds a residual, zero at first, to the photo, so that content
    is there from step 0; "random" is the paper's scaled tanh on randomly initialised weights.

    Example:
        >>> network = Johnson()
        >>> sum(p.numel() for p in network.parameters())
        1679235
        >>> network(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    def __init__(self, width: int = 32, blocks: int = 5, start: Literal["identity", "random"] = "identity") -> None:
        super().__init__()
        if start not in ("identity", "random"):
            raise ValueError(f"start is 'identity' or 'random', got {start!r}")
        w = width
        self.start = start
        self.encode1 = ConvNorm(3, w, 9)
        self.encode2 = ConvNorm(w, 2 * w, 3, stride=2)
        self.encode3 = ConvNorm(2 * w, 4 * w, 3, stride=2)
        self.trunk = nn.Sequential(*(Residual(4 * w) for _ in range(blocks)))
        # Differs from Johnson et al. (2016): nearest-neighbour upsampling and a convolution instead of a
        # convolution of stride 1/2, which leaves checkerboards.
        self.decode1 = ConvNorm(4 * w, 2 * w, 3)
        self.decode2 = ConvNorm(2 * w, w, 3)
        self.head = nn.Conv2d(w, 3, 9, padding=4, padding_mode="reflect")
        if start == "identity":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, photo: Tensor) -> Tensor:
        """Return the stylized photo.

        Raises: ImageError when a side is shorter than 16 pixels.
        """
        _, _, h, w = photo.shape
        if min(h, w) < MIN_SIDE:
            raise ImageError(f"an image of {h}x{w} pixels is too small: both sides must be at least {MIN_SIDE}")
        x = F.pad(photo, (0, -w % STRIDE, 0, -h % STRIDE), mode="reflect")
        y = F.relu(self.encode1(x))
        y = F.relu(self.encode2(y))
        y = F.relu(self.encode3(y))
        y = self.trunk(y)
        y = F.relu(self.decode1(F.interpolate(y, scale_factor=2.0, mode="nearest")))
        y = F.relu(self.decode2(F.interpolate(y, scale_factor=2.0, mode="nearest")))
        y = self.head(y)
        if self.start == "identity":
            y = x + y
        else:
            # Differs from Johnson et al. (2016): there the tanh is scaled to [0, 255], here to [0, 1].
            y = 0.5 + 0.5 * torch.tanh(y)
        return y[..., :h, :w].clamp(0, 1)
