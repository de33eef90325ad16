"""The order of photos: a pure function of seed and number, whatever the photos are read from.

Photos that can be read one by one come in a random order, all of them before any comes again.
Those that can only be read in a row are read by a fixed number of readers, lanes.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from faststyle.errors import PhotosError

LANES = 16  # at most; fixed by the shards, so that the order never depends on workers
BLOCK = 32  # photos of one lane that are shuffled among themselves
FEW = 100  # photos: fewer are augmented strongly
TRIED_NEAR = 5  # bad photos beside each other, before others are taken from elsewhere
UNEVEN = 1.1  # times the mean of the shards of a lane is the most that one may have

Raw = str | bytes | Image.Image
Order = np.ndarray[Any, np.dtype[np.int64]]


class LanePhotos:
    """Photos of shards that can only be read from the start.

    Shards are dealt to lanes, sample n comes from lane n mod lanes, and each lane shuffles blocks
    of photos, and its shards anew for each turn. To resume, a lane is read again up to where it
    was. A lane goes round for itself: it has seen all of its photos before it sees one again.
    """

    strong = False
    description = ""
    license = ""

    def __init__(self, name: str, seed: int, shards: int) -> None:
        self.name = name
        self.seed = seed
        self.shards = shards
        self.lanes = count_lanes(shards)
        # Of each lane that was read: its reader, the position of its block, and that block.
        self.readers: dict[int, tuple[Iterator[list[Any]], int, list[Any]]] = {}

    def read(self, shard: int) -> Iterator[tuple[str, Raw]]:
        """Return the names and the undecoded photos of a shard."""
        raise NotImplementedError

    def photo(self, number: int, attempt: int) -> tuple[str, Raw]:
        """Return the name and the undecoded photo of a sample number. Raises: PhotosError."""
        position, lane = divmod(number, self.lanes)
        first, block = self._block(lane, position)
        if attempt >= min(len(block), TRIED_NEAR):  # they may all be bad: look elsewhere
            return self.photo(number + attempt * (self.lanes + 1), 0)
        order = draw_order(self.seed, first * LANES + lane, len(block))
        name, raw = block[order[(position - first + attempt) % len(block)]]
        return name or f"{self.name}, sample {number}", raw

    def _block(self, lane: int, position: int) -> tuple[int, list[Any]]:
        """Return the block of a lane with a position, and the position of its first photo."""
        blocks, first, block = self.readers.get(lane, (None, 0, []))
        if blocks is None or position < first:
            blocks = self._read(lane)
            first = 0
            block = []
        # A generator that has failed only ever ends: after an error the lane is read anew.
        self.readers.pop(lane, None)
        while position >= first + len(block):
            first += len(block)
            try:
                block = next(blocks)
            except (OSError, ValueError, RuntimeError) as error:
                raise PhotosError(f"`photos`: reading {self.name} failed: {error}") from error
        self.readers[lane] = (blocks, first, block)
        return first, block

    def _read(self, lane: int) -> Iterator[list[Any]]:
        """Return the blocks of a lane, for ever."""
        # A proxy: with a cycle of references, connections would stay open until it is collected.
        return _blocks(weakref.proxy(self), lane)


def _blocks(photos: LanePhotos, lane: int) -> Iterator[list[Any]]:
    """Yield the blocks of a lane for ever, its shards in another order each turn.

    A block ends with the turn, so that no photo comes again before all have come.
    """
    mine = range(lane, photos.shards, photos.lanes)
    turn = 0
    while True:
        found = False
        block: list[Any] = []
        for i in draw_order(photos.seed, turn * LANES + lane, len(mine)):
            for item in photos.read(mine[i]):
                found = True
                block.append(item)
                if len(block) == BLOCK:
                    yield block
                    block = []
        if not found:
            raise PhotosError(f"`photos`: {photos.name} holds no rows")
        if block:
            yield block
        turn += 1


def count_lanes(shards: int) -> int:
    """Return the number of lanes: the most for which all get about as many shards.

    Otherwise photos of a lane with one shard would come twice as often as those of one with two.
    """
    most = min(LANES, shards)
    even = (n for n in range(most, 0, -1) if -(-shards // n) * n <= UNEVEN * shards)
    return next(even, 1)


def draw_row(seed: int, number: int, attempt: int, count: int) -> int:
    """Return the row of a sample among `count`: each once in a random order, then in another.

    An `attempt` above 0 returns any row.
    """
    if attempt:
        return int(np.random.default_rng((seed, number, attempt)).integers(count))
    turn, place = divmod(number, count)
    return int(_long_order(seed, turn, count)[place])


def draw_order(seed: int, turn: int, count: int) -> Order:
    """Return a random order of `count` things, a pure function of its arguments."""
    return np.random.default_rng((seed, turn, 3)).permutation(count)


@functools.lru_cache(maxsize=2)
def _long_order(seed: int, turn: int, count: int) -> Order:
    """Return `draw_order`; the last ones are kept, for a million photos take time to shuffle."""
    return draw_order(seed, turn, count)
