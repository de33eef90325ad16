"""The first two blocks of VGG in strips of rows: the same numbers, in little memory.

At 1024 x 1024 pixels the activations of these blocks are most of the memory. Here three things
leave a strip: sums for the moments, rows of content features, and the pooled rows from which
block 3 starts. The backward pass computes each strip again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from faststyle.perceptual.moments import (
    FeatureMoments,
    channel_sums,
    moments_of_sums,
    total_weight,
)
from faststyle.perceptual.vgg import VGG, Feats, block_of, deepest_block

# Blocks that are computed in strips: at 1024 x 1024 pixels their activations take a gigabyte.
STRIP_BLOCKS = 2
STRIP_PIXELS = 2**17  # a strip's 64 channels in float32 are 32 MiB
# Rows beyond a strip. Near a cut, convolutions see zeros in place of the neighbouring rows. That
# spoils 2 rows in block 1 and twice 2 in block 2; 8 is the next whole number of pooled rows.
HALO = 8


class _Rows(NamedTuple):
    """Rows `top` to `bottom` of an image, cut out with `above` and `below` more rows of halo."""

    top: int
    bottom: int
    above: int
    below: int

    def cut(self, image: Tensor) -> Tensor:
        """Return the strip of the image, halo included."""
        return image[:, :, self.top - self.above : self.bottom + self.below]

    def without_halo(self, halvings: int) -> slice:
        """Return the place of the rows in features of the strip, after so many poolings."""
        stop = self.above + self.bottom - self.top
        return slice(self.above >> halvings, stop >> halvings)

    def in_image(self, halvings: int) -> slice:
        """Return the place of the rows in features of the whole image, after so many poolings."""
        return slice(self.top >> halvings, self.bottom >> halvings)


class _Strip(NamedTuple):
    """One strip's part: its pooled rows, its rows of content features, its sums for each mask."""

    pooled: Tensor
    feats: Feats
    sums: list[dict[str, tuple[Tensor, Tensor]]]


def observe_in_strips(
    vgg: VGG, image: Tensor, content: list[str], style: list[str], masks: Sequence[Tensor | None]
) -> tuple[Tensor, Feats, list[dict[str, FeatureMoments]]]:
    """Return the input of block 3, features of content, and moments of style for each mask.

    Of `content` and `style`, only the layers of the first two blocks are returned.
    """
    reader = _StripReader(vgg, image, content, style, masks)
    strips = [
        checkpoint(reader.read, rows.cut(image), rows, use_reentrant=False)
        for rows in _split_rows(*image.shape)
    ]
    feats = {
        name: torch.cat([strip.feats[name] for strip in strips], 2) for name in strips[0].feats
    }
    pooled = torch.cat([strip.pooled for strip in strips], 2)
    return pooled, feats, reader.add_up(strips)


def _split_rows(b: int, _: int, h: int, w: int) -> list[_Rows]:
    """Return the strips of an image, (B, 3, H, W); cuts are where a pooled row begins."""
    pooled_row = 2**STRIP_BLOCKS
    rows = max(pooled_row, STRIP_PIXELS // (b * w) // pooled_row * pooled_row)
    # A rest of less than a pooled row goes with the strip before it.
    tops = list(range(0, max(1, h - pooled_row + 1), rows))
    return [
        _Rows(top, bottom, min(HALO, top), min(HALO, h - bottom))
        for top, bottom in zip(tops, [*tops[1:], h], strict=True)
    ]


class _StripReader:
    """Reads strips of one image, and adds up their sums."""

    def __init__(
        self,
        vgg: VGG,
        image: Tensor,
        content: list[str],
        style: list[str],
        masks: Sequence[Tensor | None],
    ) -> None:
        self.vgg = vgg
        self.content = content
        self.style = style
        self.wanted = {*content, *style}
        self.last = deepest_block(self.wanted)
        h, w = image.shape[-2:]
        self.sizes = [(h >> halvings, w >> halvings) for halvings in range(STRIP_BLOCKS)]
        # each mask at the size of each block
        self.masks = [
            None if mask is None else [F.adaptive_avg_pool2d(mask, size) for size in self.sizes]
            for mask in masks
        ]

    def read(self, strip: Tensor, rows: _Rows) -> _Strip:
        """Run the first two blocks on a strip, halo included."""
        blocks = range(1, min(STRIP_BLOCKS, self.last) + 1)
        x, found = self.vgg.run(self.vgg.normalise(strip), blocks, self.wanted)
        feats: Feats = {}
        sums: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in self.masks]
        for name, f in found.items():
            halvings = block_of(name) - 1
            f = f[:, :, rows.without_halo(halvings)]
            if name in self.content:
                feats[name] = f
            if name in self.style:
                for sums_of, mask in zip(sums, self.masks, strict=True):
                    whole = None if mask is None else mask[halvings]
                    weight = None if whole is None else whole[:, :, rows.in_image(halvings)]
                    sums_of[name] = channel_sums(f, weight)
        if self.last > STRIP_BLOCKS:
            pooled = self.vgg.pool(x, STRIP_BLOCKS)[:, :, rows.without_halo(STRIP_BLOCKS)]
        else:
            pooled = x[:, :, :0]  # no deeper block asks for it
        return _Strip(pooled, feats, sums)

    def add_up(self, strips: Sequence[_Strip]) -> list[dict[str, FeatureMoments]]:
        """Return the moments of the whole image, for each mask."""
        return [self._add_up_mask(strips, number) for number in range(len(self.masks))]

    def _add_up_mask(self, strips: Sequence[_Strip], number: int) -> dict[str, FeatureMoments]:
        found = {}
        mask = self.masks[number]
        for name in strips[0].sums[number]:
            products, sums = (
                torch.stack([strip.sums[number][name][part] for strip in strips]).sum(0)
                for part in (0, 1)
            )
            halvings = block_of(name) - 1
            h, w = self.sizes[halvings]
            total = h * w if mask is None else total_weight(mask[halvings])
            found[name] = moments_of_sums(products, sums, total)
        return found
