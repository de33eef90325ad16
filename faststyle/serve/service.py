"""From the body of a request to the picture: checks, decoding, the worker, encoding.

Nothing here knows HTTP beyond its status codes; app.py does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from faststyle.errors import ImageError
from faststyle.images import (
    Header,
    Picture,
    TooManyPixelsError,
    check_format_size,
    encode_picture,
    open_picture,
    read_header,
)
from faststyle.networks.network import MIN_SIDE
from faststyle.serve.metrics import Metrics
from faststyle.serve.options import RequestError, ServeOptions
from faststyle.serve.styles import Blend, Catalogue, Shelf, Style
from faststyle.serve.wanted import Wanted, choose_format
from faststyle.serve.worker import Job, Worker
from faststyle.sizes import fitted_size
from faststyle.stylize.stylizer import Look

NAME = "the photo"  # in messages
# Formats that are decoded, by Pillow's names. Rarer ones stay outside: each decoder is one more
# that a stranger may try to break.
DECODED = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF")
MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

T = TypeVar("T")
Gone = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Answer:
    """A stylized picture as a file, and what was left out of the photo."""

    data: bytes
    media_type: str
    notes: tuple[str, ...]


class Service:
    """The parts of a running service. `start` begins the work, `close` ends it in good order."""

    def __init__(
        self, options: ServeOptions, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        self.options = options
        self.catalogue = Catalogue()
        self.shelf = Shelf(options.styles, options.engine, announce)
        self.metrics = Metrics()
        self.worker = Worker(options, self.shelf, self.metrics.batch_done)
        self.in_progress = 0
        # Decoding and encoding: few threads, since each may hold a large photo.
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "pictures")
        self.metrics.watch(
            "faststyle_queue_length", "Photos that wait for a network", lambda: len(self.worker)
        )
        self.metrics.watch(
            "faststyle_requests_in_progress",
            "Requests to stylize that are read, wait, or are worked on",
            lambda: self.in_progress,
        )
        self.metrics.watch(
            "faststyle_cached_styles", "Styles that are loaded", lambda: len(self.shelf)
        )
        self.metrics.watch(
            "faststyle_style_loads", "How often a style was loaded", lambda: self.shelf.loads
        )

    def start(self) -> None:
        """Load the styles that are to be warm, and start the worker. Raises: RequestError."""
        for name in self.options.warm:
            self.shelf.get(self.catalogue.find(name), convert=True)
        self.worker.start()

    def close(self) -> None:
        """Finish what waits, and end all threads."""
        self.worker.close()
        self._pool.shutdown()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take a place of the queue for the block. Raises: RequestError when it is full."""
        if self.in_progress >= self.options.queue:
            raise self.worker.too_busy()
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1

    async def stylize(
        self,
        data: bytes,
        wanted: Wanted,
        accept: str,
        gone: Gone,
        deadline: float,
        style: Style | Blend | None = None,
    ) -> Answer:
        """Return the stylized photo of a body.

        `accept` is the header of that name. `gone()` returns when the client has gone away; then
        its photo is not worked on. `deadline` is a time of the event loop. `style` takes the place
        of the one that `wanted` names.

        Raises: RequestError.
        """
        style = style or self.catalogue.find(wanted.style)
        # Its pixels are counted before anything is decoded.
        header = await self._in_pool(deadline, self.check_header, data, wanted)
        format = choose_format(wanted, accept, header.format)
        try:
            check_format_size(*_result_size(header, wanted.size), format)
            photo = await self._in_pool(deadline, open_picture, data, NAME)
            del data  # the file, while the photo waits
            picture = await self._run(style, photo, wanted, gone, deadline)
            encoded = await self._in_pool(deadline, encode_picture, picture, format, wanted.quality)
        except ImageError as error:
            raise RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        return Answer(encoded, MEDIA[format], picture.notes)

    async def _in_pool(self, deadline: float, run: Callable[..., T], *args: Any) -> T:
        """Return `run(*args)`, from a thread. Raises: RequestError at the deadline."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._pool, run, *args)
        except TimeoutError:
            raise _too_late(True, self.options.timeout) from None

    async def _run(
        self,
        style: Style | Blend,
        photo: Picture,
        wanted: Wanted,
        gone: Gone,
        deadline: float,
    ) -> Picture:
        """Return the picture that the worker makes of a photo, if it is in time."""
        h, w = photo.rgb.shape[-2:]
        pixels = _most_pixels(h, w, wanted.size, wanted.look)
        job = Job(style, photo, wanted.size, wanted.look, pixels)
        self.worker.submit(job)
        del photo
        result = asyncio.wrap_future(job.result)
        left = asyncio.ensure_future(gone())
        remaining = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait(
                (result, left), timeout=max(0, remaining), return_when=asyncio.FIRST_COMPLETED
            )
            if result.done():
                return result.result()
            waiting = job.result.cancel()  # fails once the network runs
        finally:
            left.cancel()
            result.cancel()
        if left.done() and not left.cancelled():
            raise ClientGoneError
        raise _too_late(waiting, self.options.timeout)

    def check_header(self, data: bytes, wanted: Wanted) -> Header:
        """Return the header of a photo. Raises: RequestError for too many pixels, and no photo."""
        if not data:
            raise RequestError(HTTPStatus.BAD_REQUEST, "the body is empty: send a photo")
        most = self.options.max_pixels
        try:
            header = read_header(data, NAME)
        except TooManyPixelsError as error:
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from None
        except ImageError as error:
            raise RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        if header is None or header.format not in DECODED:
            raise RequestError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"the body is no picture that is read here: send {', '.join(DECODED)}",
            )
        h, w = header.height, header.width
        if h * w > most:
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the photo has {h}x{w} pixels, {most:,} are allowed; reduce it first",
            )
        if _most_pixels(h, w, wanted.size, wanted.look) > most:
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"`size` and `stroke_size` ask for more than {most:,} pixels of this photo of "
                f"{h}x{w}; use a smaller `size` or a larger `stroke_size`",
            )
        return header


class ClientGoneError(Exception):
    """The client closed its connection before there was an answer."""


def _result_size(header: Header, size: int | None) -> tuple[int, int]:
    h, w = header.height, header.width
    return (h, w) if size is None else fitted_size(h, w, size)


def _most_pixels(h: int, w: int, size: int | None, look: Look) -> int:
    """Return the most pixels that the work on a photo needs at once.

    They are those of the photo, of the result, or of what the network sees: smaller strokes than
    trained enlarge it, and sides below `MIN_SIDE` are mirrored up to that.
    """
    out_h, out_w = (h, w) if size is None else fitted_size(h, w, size)
    stroke_size = 1.0 if isinstance(look.stroke_size, str) else look.stroke_size
    scale = max(1, min(out_h, out_w) / stroke_size) / min(out_h, out_w)
    sides = [max(MIN_SIDE, side * scale) for side in (out_h, out_w)]
    return max(h * w, out_h * out_w, round(sides[0] * sides[1]))


def _too_late(waiting: bool, timeout: float) -> RequestError:
    """Return the error for a request that took too long, in the queue or in the network."""
    if waiting:
        return RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the photo waited for more than {timeout:g} s; try again later",
            retry_after=max(1, round(timeout / 2)),
        )
    return RequestError(
        HTTPStatus.GATEWAY_TIMEOUT,
        f"the photo took more than {timeout:g} s; use a smaller `size`",
    )
