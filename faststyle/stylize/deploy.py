"""Networks in the form that engines run fastest: the same numbers from fewer or better shaped operations.

What it is not: the conversion itself (stylize/graph.py). Nothing here is ever trained.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.johnson import Johnson
from faststyle.networks.mobile import COLORS, FOLDED, Mobile
from faststyle.networks.start import FLAT, STRIDE, whitening, with_rim, without_rim

PIXELS = STRIDE**2  # that are folded into one place


def for_engines(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in float32 on the CPU, that gives the same pictures and is made for engines."""
    network = copy.deepcopy(network).cpu().float().eval()
    if isinstance(network, Johnson) and isinstance(network.head, nn.Conv2d):
        network.head = _Quads(network.head)  # type: ignore[assignment]
    if isinstance(network, Mobile) and network.start == "palette":
        return _Folded(network).eval()
    return network


class _Quads(nn.Module):
    """A convolution with few outputs that writes 2x2 pixels at once, each a channel of its own, then spreads them.

    Three outputs use 3 of the 16 lanes of AVX-512. Twelve, with a stride of 2 and a kernel one pixel larger each way,
    use 12: 45 ms where it was 143 ms, of 500 ms for all of a network of width 16 at 480x848. Sides must be even.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding = conv.padding[0]
        weight = conv.weight.detach()
        # (3, 4, C, K + 1, K + 1): pixel (i, j) of the 2x2 is the kernel moved by i rows and j columns.
        moved = [F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]
        self.weight = nn.Parameter(torch.stack(moved, 1).flatten(0, 1))
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach().repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (int(self.padding),) * 4, mode="reflect")
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, stride=2), 2)


class _Folded(nn.Module):
    """Mobile with nothing at full size: head and filter are one convolution, and colours are mixed while folded.

    Channels are in the order (row, column, colour) of the 4x4 pixels, as they lie in memory, not in that of torch's
    `pixel_unshuffle`. At 480x848 and width 32, OpenVINO took 54 ms with this and 86 without, int8 26 and 60.
    """

    palette_mean: Tensor
    palette_matrix: Tensor

    def __init__(self, network: Mobile) -> None:
        super().__init__()
        self.network = network
        order = torch.arange(FOLDED).view(COLORS, PIXELS).T.flatten()  # where a channel is found in torch's order
        stem = network.stem[0]
        assert isinstance(stem, nn.Conv2d)
        stem.weight = nn.Parameter(stem.weight.detach()[:, order])
        weight, bias = _merged(network)
        self.head = nn.Conv2d(weight.shape[1], FOLDED, weight.shape[-1])
        self.head.weight, self.head.bias = nn.Parameter(weight[order]), nn.Parameter(bias[order])

    def forward(self, photo: Tensor) -> Tensor:
        x = with_rim(photo)
        b, h, w = x.shape[0], x.shape[2] // STRIDE, x.shape[3] // STRIDE
        x = x.permute(0, 2, 3, 1).reshape(b, h, STRIDE, w, STRIDE, COLORS).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, h, w, FOLDED)
        y = self.head(self.network.features(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = self._in_colours((_stretched(x) + y).reshape(b, h * w, FOLDED))
        y = y.view(b, h, w, STRIDE, STRIDE, COLORS).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(b, h * STRIDE, w * STRIDE, COLORS).permute(0, 3, 1, 2)
        return without_rim(y, photo).clamp(0, 1)

    def _in_colours(self, y: Tensor) -> Tensor:
        """Return (B, N, 48) as `StyleNetwork.colour` would: whitened, then in the painting's colours."""
        b, n, _ = y.shape
        mean = y.mean(1, keepdim=True).view(b, 1, PIXELS, COLORS).mean(2)
        y = y - mean.repeat(1, 1, PIXELS)
        products = (y.transpose(1, 2) @ y).view(b, PIXELS, COLORS, PIXELS, COLORS)
        covariance = products.diagonal(dim1=1, dim2=3).sum(-1) / (PIXELS * n)  # (B, 3, 3)
        mix = (self.network.palette_matrix.view(COLORS, COLORS) @ whitening(covariance)).transpose(1, 2)
        each = torch.eye(PIXELS).view(1, PIXELS, 1, PIXELS, 1) * mix.view(b, 1, COLORS, 1, COLORS)
        return y @ each.reshape(b, FOLDED, FOLDED) + self.network.palette_mean.view(1, 1, COLORS).repeat(1, 1, PIXELS)


def _stretched(x: Tensor) -> Tensor:
    """Return group_norm(x, 1) with steps that engines fuse with what comes next: a norm costs them two more passes."""
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = x.square().mean((1, 2, 3), keepdim=True) - mean.square()
    return (x - mean) * (variance + FLAT).rsqrt()


def _merged(network: Mobile) -> tuple[Tensor, Tensor]:
    """Return weight (48, C, 5, 5) and bias of the one convolution that the head and the filter are."""
    with torch.no_grad():
        head, bias = network.head.weight, network.head.bias
        assert bias is not None
        c = head.shape[1]
        taps = network.filter[:PIXELS]  # the same for all colours
        # The kernel of a kernel: each input channel's kernels, as images of 16 channels, through the filter.
        images = head.view(COLORS, PIXELS, c, 3, 3).transpose(1, 2).flatten(0, 1).flip(2, 3)
        both = F.conv2d(F.pad(images, (2, 2, 2, 2)), taps).flip(2, 3)
        weight = both.view(COLORS, c, PIXELS, 5, 5).transpose(1, 2).reshape(FOLDED, c, 5, 5)
        return weight, (bias.view(COLORS, PIXELS) @ taps.sum((2, 3)).T).flatten()
