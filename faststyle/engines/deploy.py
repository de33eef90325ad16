"""Networks in the form that engines run fastest. Nothing here is ever trained.

The operations are fewer or better shaped, and their results are the same. graph.py converts the
networks.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.networks.johnson import Johnson
from faststyle.networks.network import MIN_SIDE


def for_engines(network: nn.Module) -> nn.Module:
    """Return a copy for engines, in float32 on the CPU, that gives the same pictures."""
    network = copy.deepcopy(network).cpu().float().eval()
    if isinstance(network, Johnson) and isinstance(network.head, nn.Conv2d):
        network.head = _Quads(network.head)  # type: ignore[assignment]
    return network


class AnySize(nn.Module):
    """A network for photos of any size: small ones get their edge pixels repeated up to 32 pixels.

    Networks need 32 pixels a side, because they mirror pixels at the edges.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, photo: Tensor) -> Tensor:
        h, w = photo.shape[-2:]
        fixed = isinstance(h, int) and isinstance(w, int)  # then the graph has no arithmetic
        if fixed and h >= MIN_SIDE and w >= MIN_SIDE:
            out: Tensor = self.network(photo)
            return out
        # Differences of sizes that are left open are worked out when the graph runs.
        right: Any = torch.sym_max(MIN_SIDE - w, 0)
        below: Any = torch.sym_max(MIN_SIDE - h, 0)
        painted: Tensor = self.network(F.pad(photo, (0, right, 0, below), mode="replicate"))
        return painted[..., :h, :w].reshape(photo.shape)


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
