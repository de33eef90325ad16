"""The image transformation network of Johnson et al. (2016): strided encoder, residual trunk, upsampling decoder.

Source: J. Johnson, A. Alahi, L. Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution",
supplementary material, Table 1, https://arxiv.org/abs/1603.08155
Instance normalisation: Ulyanov et al. (2016), https://arxiv.org/abs/1607.08022
Resize-convolution: Odena et al. (2016), https://distill.pub/2016/deconv-checkerboard/
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from faststyle.errors import ImageError

MIN_SIDE = 16  # pixels: at 1/4 resolution the reflection padding of the trunk still has pixels to mirror
FLAT = 1e-3  # variance of RGB in [0, 1] below which a photo's contrast is not stretched to the painting's
GREY = 0.02  # share of the mean variance that each colour axis has at least: a grey photo's noise is not blown up
WHITEN_STEPS = 12  # enough for the smallest eigenvalue that GREY leaves, to float32
STRIDE = 4  # the trunk works at 1/4 resolution

Start = Literal["palette", "identity", "random"]


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


def whiten(image: Tensor) -> Tensor:
    """Return (B, 3, H, W) with mean 0 and, but for a floor, the identity as the covariance of each image's colours.

    The inverse root of the covariance comes from Newton and Schulz's iteration: matrix products only, so that it has
    a gradient everywhere and exports anywhere, which an eigendecomposition does not.
    Source: Higham, "Functions of matrices" (2008), section 6.7, equation 6.35.
    """
    b, c, h, w = image.shape
    with torch.autocast(image.device.type, enabled=False):
        flat = image.float().flatten(2)  # (B, 3, H W)
        flat = flat - flat.mean(2, keepdim=True)
        covariance = flat @ flat.transpose(1, 2) / (h * w)  # (B, 3, 3)
        eye = torch.eye(c, device=image.device)
        mean_variance = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        covariance = covariance + (GREY * mean_variance + FLAT) * eye
        size = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]  # at least the largest eigenvalue
        root, inverse = covariance / size, eye.expand(b, c, c)
        for _ in range(WHITEN_STEPS):
            step = 1.5 * eye - 0.5 * inverse @ root
            root, inverse = root @ step, step @ inverse
        white = (inverse / size.sqrt()) @ flat
    return white.view(b, c, h, w).to(image.dtype)


def smooth(image: Tensor) -> Tensor:
    """Return (B, C, H, W) filtered with 1-2-1 along both sides: of stripes of 2 pixels nothing is left."""
    image = F.pad(image, (1, 1, 1, 1), mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(image, 2, stride=1), 2, stride=1)


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


class Johnson(nn.Module):
    """Photo in, stylized photo out, of the same size; RGB, (B, 3, H, W), in [0, 1], H and W >= 16.

    `width` is the number of channels of the first convolution: 32 is the paper's network (1,679,235 parameters).
    `start` is what the network does before training, and what its head's output is added to:

    - "palette": the photo in the painting's colours. The sum of photo and head is whitened, and given the mean and
      the covariance of the painting's colours (`set_palette`), so that content and palette are there from step 0.
    - "identity": the photo. Its own colours have to be learned away.
    - "random": nothing; the paper's scaled tanh of a randomly initialised head.

    In training the output may leave [0, 1], so that no pixel is without a gradient; in evaluation it is clamped.

    Example:
        >>> network = Johnson()
        >>> sum(p.numel() for p in network.parameters())
        1679235
        >>> network(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    palette_mean: Tensor
    palette_matrix: Tensor

    def __init__(self, width: int = 32, blocks: int = 5, start: Start = "palette") -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ValueError(f"start is one of {', '.join(get_args(Start))}, got {start!r}")
        if width < 1 or blocks < 0:
            raise ValueError(f"width is at least 1 and blocks at least 0, got {width} and {blocks}")
        w = width
        self.start = start
        self.encode1 = ConvNorm(3, w, 9)
        self.encode2 = ConvNorm(w, 2 * w, 3, stride=2)
        self.encode3 = ConvNorm(2 * w, 4 * w, 3, stride=2)
        self.trunk = nn.Sequential(*(Residual(4 * w) for _ in range(blocks)))
        # Differs from Johnson et al. (2016): bilinear upsampling and a convolution instead of a convolution of stride
        # 1/2, which leaves checkerboards. Nearest-neighbour upsampling leaves stairs of 4 pixels along strokes.
        self.decode1 = ConvNorm(4 * w, 2 * w, 3)
        self.decode2 = ConvNorm(2 * w, w, 3)
        self.head = nn.Conv2d(w, 3, 9, padding=4, padding_mode="reflect")
        if start != "random":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        if start == "palette":
            self.register_buffer("palette_mean", torch.full((1, 3, 1, 1), 0.5))
            self.register_buffer("palette_matrix", 0.25 * torch.eye(3).view(3, 3, 1, 1))

    def set_palette(self, painting: Tensor) -> None:
        """Take the colours of a painting, (1, 3, H, W), as those to start from; for the other starts, do nothing."""
        if self.start != "palette":
            return
        mean = painting.mean((2, 3), keepdim=True)
        flat = (painting - mean).flatten(2)[0].double()  # (3, H W)
        values, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
        root = vectors @ values.clamp_min(0).sqrt().diag() @ vectors.T  # the symmetric root of the covariance
        self.palette_mean.copy_(mean)
        self.palette_matrix.copy_(root.view(3, 3, 1, 1))

    def forward(self, photo: Tensor) -> Tensor:
        """Return the stylized photo.

        Raises: ImageError when a side is shorter than 16 pixels.
        """
        _, _, h, w = photo.shape
        if min(h, w) < MIN_SIDE:
            raise ImageError(f"an image of {h}x{w} pixels is too small: both sides must be at least {MIN_SIDE}")
        x = F.pad(photo, (0, -w % STRIDE, 0, -h % STRIDE), mode="reflect")
        y = self.encode1(x, relu=True)
        y = self.encode2(y, relu=True)
        y = self.encode3(y, relu=True)
        y = self.trunk(y)
        y = self.decode1(F.interpolate(y, scale_factor=2.0, mode="bilinear"), relu=True)
        y = self.decode2(F.interpolate(y, scale_factor=2.0, mode="bilinear"), relu=True)
        y = self._colour(x, smooth(self.head(y)))[..., :h, :w]
        return y if self.training else y.clamp(0, 1)

    def _colour(self, photo: Tensor, y: Tensor) -> Tensor:
        if self.start == "palette":
            # Differs from Johnson et al. (2016), as does "identity": the photo is added to what the head says.
            y = whiten(F.group_norm(photo, 1, eps=FLAT) + y)
            return F.conv2d(y, self.palette_matrix) + self.palette_mean
        if self.start == "identity":
            return photo + y
        # Differs from Johnson et al. (2016): there the tanh is scaled to [0, 255], here to [0, 1].
        return 0.5 + 0.5 * torch.tanh(y)
