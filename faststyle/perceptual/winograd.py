"""Winograd's convolution for CPUs in float32: 3x3, with a quarter of the multiplications.

Tiles of 4x4 outputs are computed from 6x6 inputs in a transformed space, where a convolution is one
matrix product for each of 36 positions. torch's CPU convolutions do not do this (those for GPUs
do). It pays from 128 channels on; below, the transforms cost more than they save
(docs/log/speed.md). Its rounding errors are some 1e-6 of a layer's activations.

Sources: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2015), section 4.3,
F(4x4, 3x3), https://arxiv.org/abs/1509.09308; points: Barabasz et al., "Error analysis and
improving the accuracy of Winograd convolution for deep neural networks" (2018),
https://arxiv.org/abs/1803.10986
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHANNELS_FROM = 128  # of input and output
TILES_FROM = 16  # fewer tiles do not pay for reading four times the weights
CHUNK_TILES = 128  # tiles that are transformed at once: their 36 planes stay in the cache

# Data and weights are polynomials, which are evaluated at these points and at infinity. p -> -1/p
# maps the points onto each other, so that the same transformed weights serve the gradient too.
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
MIRRORED = (5, 2, 1, 4, 3, 0)  # the place of -1/p; place 5 is infinity
# The bias goes to position (1, 1) of the 6x6: there, as p is 1, it adds the same to all 16 outputs.
ONES = 1 * 6 + 1


class _Transforms(NamedTuple):
    """One-dimensional transforms, in the letters of Lavin and Gray.

    They are B^T (6, 6) of data, G (6, 3) of weights, and A^T (4, 6) of outputs.
    """

    data: np.ndarray
    weight: np.ndarray
    output: np.ndarray


def _transforms() -> _Transforms:
    """Return the transforms of Toom and Cook for `POINTS` and infinity."""
    others = [[q for q in POINTS if q != p] for p in POINTS]
    data = np.zeros((6, 6))
    for row, roots in zip(data, [*others, list(POINTS)], strict=True):
        row[: len(roots) + 1] = np.poly(roots)[::-1]
    scale = [np.prod([p - q for q in rest]) for p, rest in zip(POINTS, others, strict=True)]
    weight = np.array(
        [[p**k / f for k in range(3)] for p, f in zip(POINTS, scale, strict=True)] + [[0, 0, 1]]
    )
    output = np.array([[p**i for p in POINTS] + [float(i == 3)] for i in range(4)])
    return _Transforms(data, weight, output)


def _mirrored(forward: _Transforms) -> _Transforms:
    """Return transforms for a convolution with the flipped kernel, by the same transformed weights.

    The gradient of a convolution is such a convolution. Flip a kernel and alternate its signs: its
    polynomial at p is then p^2 times the polynomial of the kernel itself at -1/p. The signs are
    undone in the transforms of data and outputs.
    """
    kernel = forward.weight[:, ::-1] * [1, -1, 1]
    order = list(MIRRORED)
    mirrored = forward.weight[order]
    # Each row of the kernel's transform is a multiple of the mirrored row: this is the factor.
    factor = (kernel * mirrored).sum(1) / (mirrored**2).sum(1)
    signs = np.array([1, -1, 1, -1, 1, -1])
    data = (factor[:, None] * forward.data * signs)[order]
    output = (signs[:4, None] * forward.output)[:, order]
    return _Transforms(data, forward.weight, output)


def pays(x: Tensor, out_channels: int) -> bool:
    """Return whether Winograd's convolution of `x`, (B, C, H, W), to `out_channels` is faster."""
    b, c, h, w = x.shape
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    tiles = b * -(-h // 4) * -(-w // 4)
    return on_cpu and min(c, out_channels) >= CHANNELS_FROM and tiles >= TILES_FROM


class Winograd:
    """A fixed 3x3 convolution with zero padding of 1, from `weight` (O, C, 3, 3) and `bias` (O,).

    Example:
        >>> conv = nn.Conv2d(128, 256, 3, padding=1)
        >>> Winograd(conv.weight, conv.bias)(torch.rand(1, 128, 32, 32)).shape
        torch.Size([1, 256, 32, 32])
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        forward = _transforms()
        g = torch.from_numpy(forward.weight)
        planes = torch.einsum("ik,ockl,jl->ijco", g, weight.detach().double(), g)
        self.weight = planes.flatten(0, 1).to(weight.dtype).contiguous()  # (36, C, O)
        self.bias = None if bias is None else bias.detach()
        # Transforms in two dimensions, forward and backward: data (36, 36), outputs (16, 36).
        self.ways = [
            tuple(torch.from_numpy(np.kron(m, m)).to(weight.dtype) for m in (way.data, way.output))
            for way in (forward, _mirrored(forward))
        ]

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the convolution of `x`, (B, C, H, W): (B, O, H, W), in channels last.

        With `relu`, its positive part.
        """
        data, output = self.ways[0]
        with torch.no_grad():
            out = self._run(x, self.weight, data, output, self.bias)
            return out.relu_() if relu else out

    def backward(self, g: Tensor) -> Tensor:
        """Return the gradient of the input, (B, C, H, W), from that of the output, (B, O, H, W)."""
        data, output = self.ways[1]
        with torch.no_grad():
            return self._run(g, self.weight.transpose(1, 2), data, output, None)

    @staticmethod
    def _run(
        x: Tensor, weight: Tensor, data: Tensor, output: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return (B, O, H, W), computed in chunks of whole rows of tiles."""
        b, c, h, w = x.shape
        o = weight.shape[2]
        down = -(-h // 4)  # tiles
        across = -(-w // 4)
        out = x.new_empty(b, h, w, o)
        x = x.permute(0, 2, 3, 1)

        rows = min(down, max(1, CHUNK_TILES // across))
        images = min(b, max(1, CHUNK_TILES // (down * across))) if rows == down else 1
        most = images * rows * across
        # Buffers for the largest chunk, which all chunks share.
        padded = x.new_zeros(images, 4 * rows + 2, 4 * across + 2, c)
        gathered = x.new_empty(36 * most * c)
        planes = x.new_empty(36 * most * c)
        products = x.new_empty(36 * most * o)
        tiles = x.new_empty(16 * most * o)
        image_step, row_step, column_step, _ = padded.stride()
        for first in range(0, b, images):
            n = min(images, b - first)
            for top in range(0, down, rows):
                m = min(rows, down - top)
                count = n * m * across
                start = max(0, 4 * top - 1)
                stop = min(h, 4 * (top + m) + 1)
                above = start - (4 * top - 1)
                padded[:n, above : above + stop - start, 1 : w + 1] = x[
                    first : first + n, start:stop
                ]
                padded[:n, :above] = 0
                padded[:n, above + stop - start :] = 0
                # Tiles of 6x6 that begin 4 pixels apart, as a view; (row, column) of a tile first.
                overlapping = padded.as_strided(
                    (6, 6, n, m, across, c),
                    (row_step, column_step, image_step, 4 * row_step, 4 * column_step, 1),
                )
                part = gathered[: 36 * count * c].view(36, -1)
                part.view(6, 6, n, m, across, c).copy_(overlapping)
                plane = torch.mm(data, part, out=planes[: 36 * count * c].view(36, -1))
                product = products[: 36 * count * o].view(36, count, o)
                torch.bmm(plane.view(36, count, c), weight, out=product)
                if bias is not None:
                    product[ONES] += bias
                tile = torch.mm(
                    output, product.view(36, -1), out=tiles[: 16 * count * o].view(16, -1)
                )
                bottom = min(h, 4 * (top + m))
                _untile(tile.view(4, 4, n, m, across, o), out[first : first + n, 4 * top : bottom])
        return out.permute(0, 3, 1, 2)


def _untile(tiles: Tensor, out: Tensor) -> None:
    """Write tiles, (4, 4, N, rows, columns, O), to `out`, (N, H, W, O).

    The last tiles may reach beyond the edge of `out`.
    """
    _, _, n, rows, columns, o = tiles.shape
    h, w = out.shape[1:3]
    by_place = tiles.permute(2, 3, 0, 4, 1, 5)  # (N, rows, 4, columns, 4, O)
    if (h, w) == (4 * rows, 4 * columns):
        out.view(n, rows, 4, columns, 4, o).copy_(by_place)
    else:
        out.copy_(by_place.reshape(n, 4 * rows, 4 * columns, o)[:, :h, :w])
