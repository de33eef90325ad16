"""Read, stylize and write frames at the same time: three threads with short queues between them."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from faststyle.video.frames import Frame, Memory, Rgb

QUEUE_SIZE = 4  # frames that may wait before the network, and the same number behind it


class QueueClosedError(Exception):
    """The thread at the other end of a queue takes no more frames."""


class FrameQueue:
    """A queue of frames between two threads. Either thread can close it.

    `put` waits while the queue is full, and reading waits while it is empty.
    """

    def __init__(self, size: int = QUEUE_SIZE) -> None:
        self.size = size
        self.closed = False
        self.frames: deque[Frame] = deque()
        self.changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        """Add a frame as soon as there is room. Raises: QueueClosedError."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.frames) < self.size)
            if self.closed:
                raise QueueClosedError
            self.frames.append(frame)
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the queue is closed and empty."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.frames)
                if not self.frames:
                    return
                frame = self.frames.popleft()
                self.changed.notify_all()
            yield frame

    def close(self) -> None:
        """Refuse new frames. The frames in the queue can still be read."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def run_pipeline(
    frames: Generator[Frame, None, None],
    stylize: Callable[[Rgb], Rgb],
    write: Callable[[Iterator[Frame]], None],
    stopped: Callable[[], bool],
    frame_done: Callable[[], None],
    memory: Callable[[], Memory | None] = lambda: None,
) -> bool:
    """Read `frames` in one thread, stylize them in this one, and `write` them in a third.

    Before each frame `stopped` is called; after each, `frame_done`. Frames carry the `memory` that
    there is after them. Return True when all frames
    were read, False when `stopped` returned True. When one of the three fails, the others finish
    the frames that they have, all threads end, and the error is raised here.
    """
    read = FrameQueue()
    styled = FrameQueue()

    def fill_read() -> None:
        # A closed queue means that the other threads stopped: then reading ends in silence.
        with contextlib.closing(frames), contextlib.suppress(QueueClosedError):
            try:
                for frame in frames:
                    read.put(frame)
            finally:
                read.close()

    def write_styled() -> None:
        try:
            write(iter(styled))
        finally:
            styled.close()

    complete = False
    with ThreadPoolExecutor(2, "video") as pool:
        reader = pool.submit(fill_read)
        writer = pool.submit(write_styled)
        try:
            complete = _stylize_frames(read, styled, stylize, stopped, frame_done, memory)
        except QueueClosedError:  # the writer failed; writer.result() below raises its error
            pass
        finally:
            read.close()
            styled.close()
    writer.result()
    reader.result()
    return complete


def _stylize_frames(
    read: FrameQueue,
    styled: FrameQueue,
    stylize: Callable[[Rgb], Rgb],
    stopped: Callable[[], bool],
    frame_done: Callable[[], None],
    memory: Callable[[], Memory | None],
) -> bool:
    """Stylize the frames of one queue into the other; return False when `stopped` ended it."""
    last_input = None
    rgb = np.empty(0, np.uint8)
    for frame in read:
        if stopped():
            return False
        # A constant rate repeats frames. The same array needs the network only once.
        if frame.rgb is not last_input:
            last_input = frame.rgb
            rgb = stylize(frame.rgb)
            if (rgb.shape, rgb.dtype) != (last_input.shape, last_input.dtype):
                raise ValueError(
                    "stylize must keep shape and type: "
                    f"{last_input.shape} {last_input.dtype} became {rgb.shape} {rgb.dtype}"
                )
        styled.put(replace(frame, rgb=rgb, memory=memory()))
        frame_done()
    return True
