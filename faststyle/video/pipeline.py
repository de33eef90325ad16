"""Reading, the network and writing at the same time: three threads, and queues that hold a few
frames.

What it is not: faster than its slowest part.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from faststyle.video.frames import Frame, Rgb

QUEUE = 4  # frames that may wait before the network, and as many behind it


class ClosedError(Exception):
    """The other side of a channel has gone."""


class Channel:
    """A queue of frames between two threads, which waits when it is full, and which either of them can close."""

    def __init__(self, size: int = QUEUE) -> None:
        self.size = size
        self.closed = False
        self.frames: deque[Frame] = deque()
        self.changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        """Add a frame once there is room. Raises: ClosedError."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.frames) < self.size)
            if self.closed:
                raise ClosedError
            self.frames.append(frame)
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until it is closed and empty."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.frames)
                if not self.frames:
                    return
                frame = self.frames.popleft()
                self.changed.notify_all()
            yield frame

    def close(self) -> None:
        """Take no more frames; those that are inside can still be taken out."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def overlap(
    frames: Generator[Frame, None, None],
    stylize: Callable[[Rgb], Rgb],
    write: Callable[[Iterator[Frame]], None],
    stopped: Callable[[], bool],
    done: Callable[[], None],
) -> bool:
    """Read `frames` in one thread, stylize them here, `write` them in another; return whether all
    were read.

    `stopped` is asked before each frame, `done` called after it. When one part fails, what the
    others have begun comes to its end, all threads are gone, and its error is raised.
    """
    read = Channel()
    styled = Channel()

    def fill() -> None:
        with contextlib.closing(frames), contextlib.suppress(ClosedError):
            try:
                for frame in frames:
                    read.put(frame)
            finally:
                read.close()

    def drain() -> None:
        try:
            write(iter(styled))
        finally:
            styled.close()

    whole = False
    with ThreadPoolExecutor(2, "video") as pool:
        reader = pool.submit(fill)
        writer = pool.submit(drain)
        try:
            before = None
            rgb = np.empty(0, np.uint8)
            for frame in read:
                if stopped():
                    break
                if frame.rgb is not before:  # a constant rate repeats frames
                    before = frame.rgb
                    rgb = stylize(frame.rgb)
                    if (rgb.shape, rgb.dtype) != (before.shape, before.dtype):
                        raise ValueError(
                            f"{before.shape} {before.dtype} became {rgb.shape} {rgb.dtype}"
                        )
                styled.put(replace(frame, rgb=rgb))
                done()
            else:
                whole = True
        except ClosedError:  # the writer failed, and says why below
            pass
        finally:
            read.close()
            styled.close()
    writer.result()
    reader.result()
    return whole
