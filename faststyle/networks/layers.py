"""The layers that the networks are made of.

What it is not: networks (johnson.py, mobile.py), or what they all have in common (start.py).
Instance normalisation: Ulyanov et al. (2016), https://arxiv.org/abs/1607.08022
Resize-convolution: Odena et al. (2016), https://distill.pub/2016/deconv-checkerboard/
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Pixels: means that pictures go through at the end of a network, one after the other. They are blind to stripes of 2, 3
# and 4 pixels, which enlarging leaves and flat places are filled with; of any between at most 0.013 is left, of strokes
# of 6 pixels 0.13, of 8 0.34.
BOXES = (4, 4, 3)


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al. 2016, equation 4).

    As a group normalisation with one channel a group, which is the same thing. Not `nn.InstanceNorm2d`, which reshapes
    to a batch normalisation: that copies channels-last tensors twice, and is exported as one. In training on a CPU by
    hand, in half of the time.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return (B, C, H, W) normalised over each image's pixels; with `relu` the positive part of it."""
        by_hand = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
        if self.training and torch.is_grad_enabled() and by_hand:
            out: Tensor = _NormReLU.apply(x, self.weight, self.bias, self.eps, relu)
            return out
        y = F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        return F.relu(y) if relu else y


class _NormReLU(torch.autograd.Function):
    """Instance normalisation, and ReLU if asked for, in channels last; sums over pixels are matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool) -> Tensor:
        """Return the normalised (B, C, H, W)."""
        b, c, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        share = flat.new_full((b, 1, h * w), 1 / (h * w))
        centred = flat - torch.bmm(share, flat)
        inverse = (torch.bmm(share, centred.square()) + eps).rsqrt()  # (B, 1, C), over the standard deviation
        y = torch.addcmul(bias, centred, inverse * weight)
        if relu:
            y.relu_()
        ctx.save_for_backward(centred, inverse, weight, y if relu else None)
        return y.view(b, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients of input, weight and bias."""
        centred, inverse, weight, y = ctx.saved_tensors
        b, c, h, w = grad.shape
        g = grad.permute(0, 2, 3, 1).reshape(b, h * w, c)
        if y is not None:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        ones = g.new_ones(b, 1, h * w)
        of_bias = torch.bmm(ones, g)  # (B, 1, C)
        of_weight = torch.bmm(ones, g * centred) * inverse
        scale = weight * inverse
        # The mean of the gradient, and its share along the normalised input, do not reach the input.
        of_input = torch.addcmul(-scale * of_bias / (h * w), g, scale)
        of_input.addcmul_(centred, -scale * inverse * of_weight / (h * w))
        return of_input.view(b, h, w, c).permute(0, 3, 1, 2), of_weight.sum((0, 1)), of_bias.sum((0, 1)), None, None


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

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the normalised features; with `relu` the positive part of them."""
        conv, norm = self
        out: Tensor = norm(conv(x), relu)
        return out


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection, with no ReLU after the sum (Gross and Wilber, 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x, relu=True))
        return out


def enlarge(x: Tensor) -> Tensor:
    """Return (B, C, 2 H, 2 W), bilinear: nearest-neighbour upsampling leaves stairs along strokes."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def smooth(image: Tensor) -> Tensor:
    """Return (B, C, H, W) filtered with `BOXES`, reflected at the border: of finer stripes next to nothing is left."""
    image = F.pad(image, (sum(BOXES) - len(BOXES) >> 1,) * 4, mode="reflect")
    for box in BOXES:
        image = F.avg_pool2d(image, box, stride=1)
    return image
