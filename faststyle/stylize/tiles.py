"""Pictures of any size in little memory, tile by tile and without seams.

Instance normalisation needs the mean and variance of each feature map over the whole picture. So
there is one pass over all tiles for each norm: the network runs up to that norm, with the norms
before it known, and its moments are added up. The last pass paints. All passes together take about
eight times the work of the whole picture at once. The picture is the same but for rounding.

Only torch runs tiles, on the CPU: other engines cannot stop at a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faststyle.networks.layers import InstanceNorm, scaled
from faststyle.networks.network import STRIDE, StyleNetwork, check_size

Pixels = NDArray[np.uint8]  # (H, W, 3)

TILE = 1024  # pixels: side of the core of a tile, the part that is painted
# Pixels around the core that the network sees too. No output pixel depends on pixels farther away:
# the trunk reaches 40 of them, the rest at most 28.
HALO = 72


class Canvas(Protocol):
    """Pixels, (H, W, 3) in 8 bits, that slices are read from and written to.

    They are an array, or a file (huge.py).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, where: tuple[slice, slice], /) -> Pixels: ...

    def __setitem__(self, where: tuple[slice, slice], pixels: Pixels, /) -> None: ...


class Tile(NamedTuple):
    """The place of a tile in the photo with its rim, in pixels.

    The core is [top, bottom) x [left, right). The outer edges are those of core and halo.
    """

    top: int
    bottom: int
    left: int
    right: int
    outer_top: int
    outer_bottom: int
    outer_left: int
    outer_right: int

    def core(self, x: Tensor) -> Tensor:
        """Return the core of a feature map of the whole tile, (B, C, H', W')."""
        # Rounded up: feature maps of sides that are not multiples of 4 have a place more.
        shrink = -(-(self.outer_bottom - self.outer_top) // x.shape[-2])
        top = (self.top - self.outer_top) // shrink
        left = (self.left - self.outer_left) // shrink
        # For the same reason the last core goes to the end of the map.
        bottom = right = None
        if self.bottom < self.outer_bottom:
            bottom = (self.bottom - self.outer_top) // shrink
        if self.right < self.outer_right:
            right = (self.right - self.outer_left) // shrink
        return x[..., top:bottom, left:right]


class Moments:
    """Mean and variance of vectors that come in parts, in double precision.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm" (1979).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())  # sum of squares around the mean

    def add(self, x: Tensor) -> None:
        """Add N values of each of C channels, (C, N)."""
        x = x.double()
        n = x.shape[1]
        mean = x.mean(1)
        centred = x - mean[:, None]
        scatter = centred.square().sum(1)
        if self.count == 0:
            self.count = n
            self.mean = mean
            self.scatter = scatter
            return
        # The distance of the two means adds to the scatter.
        total = self.count + n
        off = mean - self.mean
        self.scatter = self.scatter + scatter + off.square() * (self.count * n / total)
        self.mean = self.mean + off * (n / total)
        self.count = total


class _NormReached(Exception):
    """Ends a pass through the network at the norm that is measured."""


def stylize_tiles(
    network: StyleNetwork,
    photo: Canvas,
    tile: int = TILE,
    progress: Callable[[int, int], None] = lambda done, of: None,
    out: Canvas | None = None,
    precision: str = "float32",
) -> Canvas:
    """Return the stylized photo: `out`, or a new array. Both are (H, W, 3) in 8 bits.

    `progress` is told of tiles done, and of how many there are. `precision` is that of convolutions
    and feature maps, float32 or bf16; moments are in double precision. Raises: ImageError when a
    side is shorter than 32 pixels.

    Example:
        >>> stylize_tiles(load_checkpoint(path)[0], np.zeros((9000, 9000, 3), np.uint8)).shape
        (9000, 9000, 3)
    """
    h, w = photo.shape[:2]
    check_size(h, w)
    out = np.empty((h, w, 3), np.uint8) if out is None else out
    reduced = precision != "float32"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        _Job(network.eval(), photo, tile, progress).run(out)
    return out


class _Job:
    """A photo on its way through a network, with the rim of mirrored pixels that networks add."""

    def __init__(
        self, network: StyleNetwork, photo: Canvas, tile: int, progress: Callable[[int, int], None]
    ) -> None:
        self.network = network
        self.photo = photo
        self.height, self.width = photo.shape[:2]
        self.rim = network.rim
        # Rim and padding as in `with_rim`.
        multiple = network.multiple
        h, w = (side + -side % multiple + 2 * self.rim for side in (self.height, self.width))
        self.tiles = list(_tiles(h, w, tile, self.rim))
        self.norms = [m for m in network.modules() if isinstance(m, InstanceNorm)]
        self.statistics: dict[InstanceNorm, Moments] = {}
        self.tile = self.tiles[0]  # that is worked on
        self.measured: tuple[InstanceNorm, Moments] | None = None  # in this pass
        self.done = 0
        self.progress = progress

    def run(self, out: Canvas) -> None:
        """Write the stylized photo."""
        with self._norms_replaced():
            for norm in self.norms:
                self.measured = norm, Moments()
                for _ in self._each_tile():
                    with suppress(_NormReached):
                        self.network.paint(self._tile_pixels())
                self.statistics[norm] = self.measured[1]
            self.measured = None
            for tile in self._each_tile():
                painted = self.network.in_range(self.network.paint(self._tile_pixels())).float()
                rgb = tile.core(painted)[0].clamp(0, 1).mul(255).round().byte()
                self._write(tile, rgb, out)

    def _write(self, tile: Tile, rgb: Tensor, out: Canvas) -> None:
        """Write the core of a tile, (3, H', W'), without the rim of the picture."""
        rows = _inside(tile.top, tile.bottom, self.height, self.rim)
        columns = _inside(tile.left, tile.right, self.width, self.rim)
        # From the place in the photo to the place in the core.
        top = self.rim - tile.top
        left = self.rim - tile.left
        part = rgb[
            :, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
        ]
        if part.numel():  # a core at the end may hold nothing but padding and rim
            out[rows, columns] = part.permute(1, 2, 0).numpy()

    def _each_tile(self) -> Iterator[Tile]:
        """Yield all tiles; each is `self.tile` while it is worked on."""
        passes = len(self.norms) + 1
        for tile in self.tiles:
            self.tile = tile
            yield tile
            self.done += 1
            self.progress(self.done, passes * len(self.tiles))

    def _tile_pixels(self) -> Tensor:
        """Return the pixels of core and halo, (1, 3, H', W'), those in the rim mirrored."""
        t = self.tile
        rows = _inside(t.outer_top, t.outer_bottom, self.height, self.rim)
        columns = _inside(t.outer_left, t.outer_right, self.width, self.rim)
        # Pixels of the tile that lie in the rim, on each side.
        above = rows.start + self.rim - t.outer_top
        left = columns.start + self.rim - t.outer_left
        below = t.outer_bottom - self.rim - rows.stop
        right = t.outer_right - self.rim - columns.stop
        part = np.pad(
            self.photo[rows, columns], ((above, below), (left, right), (0, 0)), mode="reflect"
        )
        x = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None].float().div_(255)
        return x.contiguous(memory_format=torch.channels_last)

    @contextmanager
    def _norms_replaced(self) -> Iterator[None]:
        """Replace the norms: one is measured, the others use statistics of the whole picture."""
        try:
            for norm in self.norms:
                norm.forward = partial(self._norm, norm)  # type: ignore[method-assign]
            yield
        finally:
            for norm in self.norms:
                del norm.forward

    def _norm(
        self, norm: InstanceNorm, x: Tensor, relu: bool = False, mix: Tensor | None = None
    ) -> Tensor:
        """Stand in for the forward pass of a norm."""
        if self.measured is not None and norm is self.measured[0]:
            self.measured[1].add(self.tile.core(x)[0].flatten(1))
            raise _NormReached
        # (x - mean) / deviation * weight + bias, as one product and one sum.
        found = self.statistics[norm]
        scale = norm.weight.double() / (found.scatter / found.count + norm.eps).sqrt()
        shift = norm.bias.double() - found.mean * scale
        return scaled(x, scale[None], shift[None], relu)


def _inside(first: int, end: int, side: int, rim: int) -> slice:
    """Return the pixels from `first` to `end` of a photo with its rim as pixels of the photo.

    `side` is that of the photo. Pixels of the rim are left out.
    """
    start = max(0, first - rim)
    return slice(start, max(start, min(side, end - rim)))


def _tiles(h: int, w: int, side: int, rim: int) -> Iterator[Tile]:
    """Yield tiles with cores of `side` pixels, or less at the end.

    All inner edges are multiples of 4, because feature maps are up to 4 times smaller.
    """
    side = max(STRIDE, side // STRIDE * STRIDE)
    for top, bottom in _cuts(h, side, rim):
        for left, right in _cuts(w, side, rim):
            outer = (
                max(0, top - HALO),
                min(h, bottom + HALO),
                max(0, left - HALO),
                min(w, right + HALO),
            )
            yield Tile(top, bottom, left, right, *outer)


def _cuts(length: int, side: int, rim: int) -> list[tuple[int, int]]:
    """Return the start and the end of each tile; the rim belongs to the outer tiles."""
    starts = [0, *range(rim + side, length - rim, side)]
    return list(zip(starts, [*starts[1:], length], strict=True))
