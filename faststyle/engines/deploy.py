"""Networks in the form that engines run fastest. Nothing here is ever trained.

The operations are fewer or better shaped, and their results are the same. graph.py converts the
networks.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.johnson import Johnson


def for_engines(network: nn.Module) -> nn.Module:
    """Return a copy for engines, in float32 on the CPU, that gives the same pictures."""
    network = copy.deepcopy(network).cpu().float().eval()
    if isinstance(network, Johnson) and isinstance(network.head, nn.Conv2d):
        network.head = _Quads(network.head)  # type: ignore[assignment]
    return network


class _Quads(nn.Module):
    """A convolution with few outputs that writes 2x2 pixels at once, as channels, and spreads them.

    Three outputs use 3 of the 16 lanes of AVX-512. Twelve outputs use 12 of them; they need a
    stride of 2, and a kernel that is one pixel larger each way. That takes 45 ms instead of 143 ms,
    of 500 ms for a network of width 16 at 480x848. Sides must be even.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding = conv.padding[0]
        weight = conv.weight.detach()
        # Pixel (i, j) of the 2x2 comes from the kernel moved by i rows and j columns. Stacked, they
        # are (3, 4, C, K + 1, K + 1).
        moved = [F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]
        self.weight = nn.Parameter(torch.stack(moved, 1).flatten(0, 1))
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach().repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (int(self.padding),) * 4, mode="reflect")
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, stride=2), 2)
