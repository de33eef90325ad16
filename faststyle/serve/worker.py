"""One thread that runs the networks: requests that wait together are done as one batch."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus

from faststyle.images import Picture
from faststyle.serve.options import RequestError, ServeOptions
from faststyle.serve.styles import Blend, Shelf, Style
from faststyle.stylize.stylizer import Look

STEADY = 0.9  # how much of the mean time of a picture stays when a new time comes
LONGEST_WAIT = 60  # seconds that a client is told to wait, at most
# The photos that wait hold as many pixels as so many of the largest ones: 12 bytes a pixel.
WAITING_PHOTOS = 4


@dataclass
class Job:
    """A photo that waits for its style. `result` can be cancelled until the work begins."""

    style: Style | Blend
    photo: Picture
    size: int | None
    look: Look
    pixels: int  # that the network sees, or the result has, whichever is more
    result: Future[Picture] = field(default_factory=Future)

    def key(self) -> tuple[object, ...]:
        """Return a value that jobs share if they may be done as one batch."""
        return self.style.name, tuple(self.photo.rgb.shape), self.size, self.look


class Worker:
    """The queue of jobs, and the thread that takes the oldest one with those that are like it."""

    def __init__(
        self, options: ServeOptions, shelf: Shelf, batch_done: Callable[[int], None]
    ) -> None:
        self._options = options
        self._shelf = shelf
        self._batch_done = batch_done
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._seconds = 0.0  # mean time of a picture
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Finish the jobs that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def is_alive(self) -> bool:
        """Return whether the thread works."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Put a job into the queue. Raises: RequestError where it holds too many pixels."""
        with self._changed:
            # Those whose clients went away are let go, with their photos.
            self._jobs = deque(job for job in self._jobs if not job.result.cancelled())
            waiting = sum(waiting.pixels for waiting in self._jobs)
            if waiting + job.pixels > WAITING_PHOTOS * self._options.max_pixels:
                raise self.too_busy()
            self._jobs.append(job)
            self._changed.notify()

    def too_busy(self) -> RequestError:
        """Return the error for a queue that is full, with the time until it is likely not to be."""
        wait = math.ceil(self._seconds * (1 + len(self._jobs)))
        return RequestError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "too many requests wait already; try again later",
            retry_after=min(max(1, wait), LONGEST_WAIT),
        )

    def _run(self) -> None:
        while batch := self._next_batch():
            began = time.monotonic()
            self._paint(batch)
            took = (time.monotonic() - began) / len(batch)
            self._seconds = STEADY * self._seconds + (1 - STEADY) * took if self._seconds else took

    def _next_batch(self) -> list[Job]:
        """Wait for a job; return it with those that are like it. An empty list is the end."""
        with self._changed:
            while True:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return []
                batch = self._take_batch()
                # Those whose clients went away, or waited too long, have been cancelled.
                batch = [job for job in batch if job.result.set_running_or_notify_cancel()]
                if batch:
                    return batch

    def _take_batch(self) -> list[Job]:
        """Take the oldest job and those like it out of the queue.

        A batch has no more pixels than the largest photo may have, so it needs no more memory.
        """
        first = self._jobs[0]
        most = min(self._options.max_batch, max(1, self._options.max_pixels // first.pixels))
        batch = [job for job in self._jobs if job.key() == first.key()][:most]
        taken = {id(job) for job in batch}
        self._jobs = deque(job for job in self._jobs if id(job) not in taken)
        return batch

    def _paint(self, batch: list[Job]) -> None:
        """Stylize a batch, and give each job its picture or the error."""
        first = batch[0]
        try:
            stylizer = self._shelf.get(first.style)
            photos = [job.photo for job in batch]
            pictures = stylizer.stylize_batch(photos, first.size, first.look)
        # A bug or a failing engine must not end the thread, or no request would be answered.
        except Exception as error:
            for job in batch:
                job.result.set_exception(error)
            return
        self._batch_done(len(batch))
        for job, picture in zip(batch, pictures, strict=True):
            job.result.set_result(picture)
