"""The layers that the networks are made of.

Sources: instance normalisation, Ulyanov et al. (2016), https://arxiv.org/abs/1607.08022;
one scale and shift for each of many paintings, Dumoulin et al. (2016),
https://arxiv.org/abs/1610.07629; resize-convolution, Odena et al. (2016),
https://distill.pub/2016/deconv-checkerboard/
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Places of a feature map: from here on torch's group normalisation on CPUs, which adds up in
# float32, is off by more than rounding to 8 bits. Pictures of 2048x2048 were 48 levels off.
LARGE = 2**17
STRIP = 2**14  # places that are added up in float32, before their sums are in double precision


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al. 2016, equation 4).

    It is computed as a group normalisation with one channel in each group. `nn.InstanceNorm2d`
    would reshape to a batch normalisation, which copies channels-last tensors twice and is exported
    as one. In training on a CPU the gradient is worked out by hand: torch's takes ten times as long
    in bf16.

    With `paintings`, P of them, there is a scale and a shift for each, (P, C), as in Dumoulin et
    al. (2016). `forward` then needs `mix`, (B, P), with the shares of the paintings in each image.
    """

    def __init__(self, channels: int, paintings: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        shape = (paintings, channels) if paintings else (channels,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, relu: bool = False, mix: Tensor | None = None) -> Tensor:
        """Return (B, C, H, W), normalised in each image; with `relu`, its positive part."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if mix is not None:
            weight = mix @ weight  # (B, C)
            bias = mix @ bias
        by_hand = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.training and torch.is_grad_enabled() and by_hand:
            out: Tensor = _NormReLU.apply(x, weight, bias, self.eps, relu)
            return out
        if by_hand and not torch.is_grad_enabled() and x.shape[2] * x.shape[3] > LARGE:
            mean, variance = exact_moments(x)
            scale = weight.double() / (variance + self.eps).sqrt()
            return scaled(x, scale, bias.double() - mean * scale, relu)
        if weight.dim() == 1:
            y = F.group_norm(x, x.shape[1], weight, bias, self.eps)
        else:
            y = F.group_norm(x, x.shape[1], eps=self.eps)
            y = y * weight.to(y.dtype)[:, :, None, None] + bias.to(y.dtype)[:, :, None, None]
        return F.relu(y) if relu else y


def exact_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each feature map, (B, C) in double precision, from strips."""
    first = _strips(x)[0].float().mean((2, 3), keepdim=True)
    total = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    squares = total.clone()
    for strip in _strips(x):
        near = strip.float() - first  # small numbers, so that their squares keep their digits
        total += near.sum((2, 3)).double()
        squares += near.square_().sum((2, 3)).double()
    count = x.shape[2] * x.shape[3]
    off = total / count
    return off + first.double().flatten(1), squares / count - off.square()


def scaled(x: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """Return x * scale + shift, (B, C, H, W), computed in float32; with `relu`, its positive part.

    `scale` and `shift` are (B, C). The result has the precision of `x`.
    """
    factor = scale.float()[:, :, None, None]
    term = shift.float()[:, :, None, None]
    out = torch.empty_like(x)
    for new, old in zip(_strips(out), _strips(x), strict=True):
        y = torch.addcmul(term, old.float(), factor)
        new.copy_(y.relu_() if relu else y)
    return out


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    """Return views of (B, C, H, W) of about `STRIP` places each."""
    rows = max(1, STRIP // x.shape[3])
    strips: tuple[Tensor, ...] = x.split(rows, 2)  # type: ignore[no-untyped-call]
    return strips


class _NormReLU(torch.autograd.Function):
    """Instance normalisation in channels last, with or without ReLU.

    Scale and shift are (C,), or (B, C) with their own for each image.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
    ) -> Tensor:
        """Return the normalised (B, C, H, W), in the precision that it came in."""
        b, c, h, w = x.shape
        scale = weight.to(x.dtype)
        shift = bias.to(x.dtype)
        own = weight.dim() == 2  # each image has its own scale and shift
        y, mean, inverse = torch.ops.aten.native_group_norm(
            x, None if own else scale, None if own else shift, b, c, h * w, c, eps
        )
        if own:
            y.mul_(scale[:, :, None, None]).add_(shift[:, :, None, None])
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
        mean = mean.float().view(b, 1, c)
        inverse = inverse.float().view(b, 1, c)
        ones = g.new_ones(b, 1, h * w)  # sums over pixels are matrix products
        of_bias = torch.bmm(ones, g)  # (B, 1, C)
        of_weight = (torch.bmm(ones, g * flat) - mean * of_bias) * inverse
        scale = weight.view(-1, 1, c) * inverse
        # The normalised input has a fixed mean and length. So the gradient's mean, and its part
        # along the normalised input, change nothing: both are taken off.
        along = -scale * inverse * of_weight / (h * w)
        constant = -scale * of_bias / (h * w) - along * mean
        of_input = torch.addcmul(constant, g, scale).addcmul_(flat, along)
        of_input = of_input.to(x.dtype).view(b, h, w, c).permute(0, 3, 1, 2)
        if weight.dim() == 2:
            return of_input, of_weight[:, 0], of_bias[:, 0], None, None
        return of_input, of_weight.sum((0, 1)), of_bias.sum((0, 1)), None, None


class ConvNorm(nn.Sequential):
    """Reflection padding, convolution and instance normalisation; `stride` divides the size.

    Differs from Johnson et al. (2016): instance instead of batch normalisation, and reflection
    padding in each convolution instead of zeros there and 40 mirrored pixels around the image.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, paintings: int = 0
    ) -> None:
        padding = kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect"),
            InstanceNorm(outputs, paintings),
        )

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution; the normalisation cancels the length of its weights."""
        conv: nn.Conv2d = self[0]  # type: ignore[assignment]
        return conv

    def forward(self, x: Tensor, relu: bool = False, mix: Tensor | None = None) -> Tensor:
        """Return the normalised features; with `relu`, their positive part."""
        conv, norm = self
        out: Tensor = norm(conv(x), relu, mix)
        return out


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip connection, without ReLU after the sum.

    Source: Gross and Wilber (2016), whom Johnson et al. (2016) follow.
    """

    def __init__(self, channels: int, paintings: int = 0) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3, paintings=paintings)
        self.second = ConvNorm(channels, channels, 3, paintings=paintings)

    def forward(self, x: Tensor, mix: Tensor | None = None) -> Tensor:
        out: Tensor = x + self.second(self.first(x, True, mix), False, mix)
        return out


class Trunk(nn.Sequential):
    """Residual blocks one after the other, each with the `mix` of paintings."""

    def __init__(self, channels: int, blocks: int, paintings: int = 0) -> None:
        super().__init__(*(Residual(channels, paintings) for _ in range(blocks)))

    def forward(self, x: Tensor, mix: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, mix)
        return x


def enlarge(x: Tensor) -> Tensor:
    """Return (B, C, 2 H, 2 W), bilinear; nearest-neighbour would leave stairs along strokes."""
    if x.device.type == "xla":
        return enlarge_plainly(x)
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def enlarge_plainly(x: Tensor) -> Tensor:
    """Return what `enlarge` does, by sums: XLA has the gradient of `interpolate` on TPUs only."""
    for dim in (2, 3):
        size = x.shape[dim]
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
        pair = [0.75 * x + 0.25 * neighbour for neighbour in (before, after)]
        x = torch.stack(pair, dim + 1).flatten(dim, dim + 1)
    return x
