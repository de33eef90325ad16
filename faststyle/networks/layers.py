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
    to a batch normalisation: that copies channels-last tensors twice, and is exported as one. In training on a CPU its
    gradient is worked out by hand: torch's takes ten times as long in bf16.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return (B, C, H, W) normalised over each image's pixels; with `relu` the positive part of it."""
        by_hand = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.training and torch.is_grad_enabled() and by_hand:
            out: Tensor = _NormReLU.apply(x, self.weight, self.bias, self.eps, relu)
            return out
        y = F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        return F.relu(y) if relu else y


class _NormReLU(torch.autograd.Function):
    """Instance normalisation, and ReLU if asked for, in channels last; sums over pixels are matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool) -> Tensor:
        """Return the normalised (B, C, H, W), in the precision that it came in."""
        b, c, h, w = x.shape
        scale, shift = weight.to(x.dtype), bias.to(x.dtype)
        y, mean, inverse = torch.ops.aten.native_group_norm(x, scale, shift, b, c, h * w, c, eps)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, mean, inverse, weight, y if relu else None)
        out: Tensor = y
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients of input, weight and bias, summed in float32."""
        x, mean, inverse, weight, y = ctx.saved_tensors
        b, c, h, w = x.shape
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        g, flat = (t.permute(0, 2, 3, 1).reshape(b, h * w, c).float() for t in (grad, x))
        mean, inverse = mean.float().view(b, 1, c), inverse.float().view(b, 1, c)
        ones = g.new_ones(b, 1, h * w)
        of_bias = torch.bmm(ones, g)  # (B, 1, C)
        of_weight = (torch.bmm(ones, g * flat) - mean * of_bias) * inverse
        scale = weight * inverse
        # The mean of the gradient, and its share along the normalised input, do not reach the input.
        along = -scale * inverse * of_weight / (h * w)
        of_input = torch.addcmul(-scale * of_bias / (h * w) - along * mean, g, scale).addcmul_(flat, along)
        of_input = of_input.to(x.dtype).view(b, h, w, c).permute(0, 3, 1, 2)
        return of_input, of_weight.sum((0, 1)), of_bias.sum((0, 1)), None, None


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
