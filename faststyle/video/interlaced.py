"""Turn interlaced pictures, of two fields each, into progressive ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from faststyle.video.frames import Losses, TimedPicture

if TYPE_CHECKING:
    from av import VideoFrame


def deinterlace(timed: Iterable[TimedPicture], losses: Losses) -> Iterator[TimedPicture]:
    """Replace interlaced pictures by progressive ones. All pictures keep their times."""
    fields: Deinterlacer | None = None
    for one in timed:
        if fields is not None and not fields.fits(one.picture):
            yield from fields.end()
            fields = None
        if fields is None and one.picture.interlaced_frame:
            losses.interlaced = True
            fields = Deinterlacer(one.picture)
        if fields is None:
            yield one
        else:
            yield from fields.add(one)
    if fields is not None:
        yield from fields.end()


class Deinterlacer:
    """Makes one progressive picture of the two fields of each, with FFmpeg's bwdif.

    The filter looks at the pictures before and after, so it gives each back one later. Pictures
    that are progressive pass through.
    """

    def __init__(self, picture: VideoFrame) -> None:
        from av.filter import Graph

        self.layout = self._layout_of(picture)
        self.waiting: deque[TimedPicture] = deque()
        # The graph must stay in a variable: its filters do not keep it alive.
        self.graph = Graph()
        self.source = self.graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base,
        )
        self.sink = self.graph.add("buffersink")
        fields = self.graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self.graph.link_nodes(self.source, fields, self.sink).configure()

    def fits(self, picture: VideoFrame) -> bool:
        """Return whether a picture has the size and format of the first one."""
        return self._layout_of(picture) == self.layout

    def add(self, one: TimedPicture) -> Iterator[TimedPicture]:
        """Add a picture; yield those that are ready."""
        self.waiting.append(one)
        self.source.push(one.picture)
        yield from self._pull()

    def end(self) -> Iterator[TimedPicture]:
        """Yield the pictures that are left."""
        self.source.push(None)
        yield from self._pull()
        yield from self.waiting

    def _pull(self) -> Iterator[TimedPicture]:
        from av.error import BlockingIOError, EOFError

        while True:
            try:
                picture = cast("VideoFrame", self.sink.pull())
            except (BlockingIOError, EOFError):  # the filter needs more pictures, or has ended
                return
            yield self.waiting.popleft()._replace(picture=picture)

    @staticmethod
    def _layout_of(picture: VideoFrame) -> tuple[int, int, str]:
        return picture.width, picture.height, picture.format.name
