"""Winograd's convolution for CPUs in float32: a 3x3 convolution with a quarter of the multiplications.

Tiles of 4x4 outputs are computed from 6x6 inputs in a transformed space, where a convolution is one matrix product
for each of 36 positions. torch's CPU convolutions do not do this (GPUs' do). It pays from 128 channels on: below, the
transforms cost more than they save (docs/log.md). Its rounding errors are some 1e-6 of a layer's activations.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2015), section 4.3, F(4x4, 3x3),
https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_FROM = 128  # of input and output
TILES_FROM = 16  # fewer tiles do not pay for reading four times the weights
CHUNK_TILES = 128  # that are transformed at once: their 36 planes stay in the cache

# The transforms of data, of weights and of outputs, B^T, G and A^T in the paper.
DATA = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6] * 3,
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
ONES = 7  # the plane of the 36 that adds the same to all 16 outputs of a tile: where the bias goes


def pays(x: Tensor, out_channels: int) -> bool:
    """Return whether the convolution of `x`, (B, C, H, W), to `out_channels` is faster this way."""
    b, c, h, w = x.shape
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and min(c, out_channels) >= CHANNELS_FROM and b * -(-h // 4) * -(-w // 4) >= TILES_FROM


class Winograd:
    """A 3x3 convolution with zero padding of 1, from `weight` (O, C, 3, 3) and `bias` (O,); fixed, without gradient.

    Example:
        >>> conv = nn.Conv2d(128, 256, 3, padding=1)
        >>> Winograd(conv.weight, conv.bias)(torch.rand(1, 128, 32, 32)).shape
        torch.Size([1, 256, 32, 32])
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        transform = torch.tensor(WEIGHT, dtype=torch.float64)
        planes = torch.einsum("ik,ockl,jl->ijco", transform, weight.detach().double(), transform)
        self.weight = planes.flatten(0, 1).to(weight.dtype).contiguous()  # (36, C, O)
        self.bias = None if bias is None else bias.detach()
        data, output = (torch.tensor(m, dtype=torch.float64) for m in (DATA, OUTPUT))
        self.data = torch.kron(data, data).to(weight.dtype)  # (36, 36)
        self.output = torch.kron(output, output).to(weight.dtype)  # (16, 36)

    @torch.no_grad()
    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the convolution of `x`, (B, C, H, W), with `relu` its positive part: (B, O, H, W), channels last."""
        b, c, h, w = x.shape
        o = self.weight.shape[2]
        down, across = -(-h // 4), -(-w // 4)  # tiles
        padded = x.new_empty(b, 4 * down + 2, 4 * across + 2, c)
        padded[:, 1 : h + 1, 1 : w + 1] = x.permute(0, 2, 3, 1)
        for edge in (padded[:, 0], padded[:, h + 1 :], padded[:, :, 0], padded[:, :, w + 1 :]):
            edge.zero_()
        out = x.new_empty(b, 4 * down, 4 * across, o)

        rows = min(down, max(1, CHUNK_TILES // across))
        images = min(b, max(1, CHUNK_TILES // (down * across))) if rows == down else 1
        most = images * rows * across
        gathered, planes = x.new_empty(36 * most * c), x.new_empty(36 * most * c)
        products, tiles = x.new_empty(36 * most * o), x.new_empty(16 * most * o)
        image_step, row_step, column_step, _ = padded.stride()
        for first in range(0, b, images):
            n = min(images, b - first)
            for top in range(0, down, rows):
                m = min(rows, down - top)
                count = n * m * across
                overlapping = padded[first : first + n, 4 * top :].as_strided(
                    (6, 6, n, m, across, c),
                    (row_step, column_step, image_step, 4 * row_step, 4 * column_step, 1),
                )
                part = gathered[: 36 * count * c].view(36, -1)
                part.view(6, 6, n, m, across, c).copy_(overlapping)
                plane = torch.mm(self.data, part, out=planes[: 36 * count * c].view(36, -1))
                product = products[: 36 * count * o].view(36, count, o)
                torch.bmm(plane.view(36, count, c), self.weight, out=product)
                if self.bias is not None:
                    product[ONES] += self.bias
                tile = torch.mm(self.output, product.view(36, -1), out=tiles[: 16 * count * o].view(16, -1))
                if relu:
                    tile.relu_()
                to = out[first : first + n, 4 * top : 4 * (top + m)].view(n, m, 4, across, 4, o)
                to.copy_(tile.view(4, 4, n, m, across, o).permute(2, 3, 0, 4, 1, 5))
        return out[:, :h, :w].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
