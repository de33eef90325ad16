"""Make a GIF, or numbered pictures, from the lossless segments of a job.

Videos, with their sound, are written in mux.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from faststyle.files import output_error
from faststyle.images import write_image
from faststyle.video.frames import Alpha, Clip
from faststyle.video.options import file_url, numbered_files
from faststyle.video.parts import Parts
from faststyle.video.streams import open_input
from faststyle.video.write import LOSSLESS

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph
    from av.filter.context import FilterContext

GIF_OPAQUE = 128  # the least alpha of a pixel that is seen, FFmpeg's default
PALETTE_SIDE = 16  # pixels: FFmpeg's palettegen returns its 256 colours as a picture of 16x16


def write_gif(path: Path, parts: Parts, clip: Clip, raise_if_stopped: Callable[[], None]) -> None:
    """Write an endless GIF with error diffusion and one palette, made from all frames.

    The segments are read twice: for the palette, then for the frames. Few frames are in memory at
    a time. GIF has no half transparent pixels: those with an alpha below 128 become transparent.
    `raise_if_stopped` is called for each frame, and may raise.

    Raises: OSError.
    """
    import av
    from av.error import BlockingIOError, EOFError

    palette, transparent = _make_palette(parts, clip, raise_if_stopped)
    # The graph must stay in a variable: its filters do not keep it alive.
    _graph, frames, sink = _palette_filter(clip, palette)
    last = parts.segments[-1]
    with av.open(
        file_url(path),
        "w",
        format="gif",
        container_options={"final_delay": str(last.end - last.last)},
    ) as file:
        stream = file.add_stream("gif", rate=clip.rate, time_base=clip.time_base)
        stream.width = clip.width
        stream.height = clip.height
        stream.pix_fmt = "pal8"
        if transparent:  # FFmpeg stores the changes of such frames only, but clears what was there
            stream.codec_context.options = {"gifflags": "0"}

        def encode_ready_frames() -> None:
            while True:
                try:
                    file.mux(stream.encode(cast("VideoFrame", sink.pull())))
                except (BlockingIOError, EOFError):  # the filter needs more frames, or has ended
                    return

        for picture in _stored_frames(parts, clip):
            raise_if_stopped()
            frames.push(_with_transparent_corner(picture) if transparent else picture)
            encode_ready_frames()
        frames.push(None)
        encode_ready_frames()
        file.mux(stream.encode())


def write_pictures(
    path: Path, parts: Parts, clip: Clip, raise_if_stopped: Callable[[], None]
) -> None:
    """Write the frames as pictures by a pattern such as frames/%05d.png, counted from 1.

    Either all pictures are written or none. Older pictures of the same pattern are deleted.
    `raise_if_stopped` is called for each frame, and may raise.

    Raises: OutputError.
    """
    folder = path.parent
    temporary = folder.with_name(f".{folder.stem}.{os.getpid()}.part{folder.suffix}")
    try:
        for number, picture in enumerate(_stored_frames(parts, clip), 1):
            raise_if_stopped()
            format = "rgba" if clip.alpha else "rgb24"
            pixels = torch.from_numpy(np.asarray(picture.to_ndarray(format=format), np.uint8))
            levels = pixels.permute(2, 0, 1)[None].float() / 255
            alpha = levels[:, 3:] if clip.alpha else None
            write_image(levels[:, :3], temporary / (path.name % number), alpha)
        # All pictures are complete now. Only from here on is the output folder changed.
        for old in numbered_files(path):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(temporary.iterdir()):
            file.replace(folder / file.name)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_palette(
    parts: Parts, clip: Clip, raise_if_stopped: Callable[[], None]
) -> tuple[VideoFrame, bool]:
    """Return a picture of the 256 colours that suit all frames best.

    With it comes whether any frame has transparent pixels.
    """
    graph, frames = _filter_graph(clip)
    graph.link_nodes(
        frames, graph.add("palettegen", "stats_mode=full"), graph.add("buffersink")
    ).configure()
    transparent = False
    for picture in _stored_frames(parts, clip):
        raise_if_stopped()
        transparent = transparent or (clip.alpha and _alpha(picture).min() < GIF_OPAQUE)
        frames.push(picture)
    frames.push(None)
    return graph.vpull(), bool(transparent)


def _alpha(picture: VideoFrame) -> Alpha:
    """Return the alpha of a stored frame, (H, W)."""
    return np.asarray(picture.to_ndarray(format="rgba"), np.uint8)[..., 3]


def _with_transparent_corner(picture: VideoFrame) -> VideoFrame:
    """Return a frame that has a transparent pixel at least in its corner.

    FFmpeg's encoder clears a frame before the next one only if it has such pixels. What is behind
    the next one's transparent pixels would else be seen.
    """
    from av import VideoFrame

    if _alpha(picture).min() < GIF_OPAQUE:
        return picture
    bgra = picture.to_ndarray(format="bgra")
    bgra[-1, -1, 3] = 0
    cleared = VideoFrame.from_ndarray(bgra, "bgra")
    cleared.pts = picture.pts
    cleared.time_base = picture.time_base
    return cleared


def _palette_filter(clip: Clip, palette: VideoFrame) -> tuple[Graph, FilterContext, FilterContext]:
    """Return a graph that maps frames to the colours of a palette, its input, and its output."""
    graph, frames = _filter_graph(clip)
    colors = graph.add_buffer(
        width=PALETTE_SIDE, height=PALETTE_SIDE, format=palette.format, time_base=clip.time_base
    )
    apply = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
    sink = graph.add("buffersink")
    frames.link_to(apply, 0, 0)
    colors.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    palette.pts = 0
    palette.time_base = clip.time_base
    colors.push(palette)
    colors.push(None)
    return graph, frames, sink


def _filter_graph(clip: Clip) -> tuple[Graph, FilterContext]:
    """Return a graph of FFmpeg filters with nothing but its input for stored frames."""
    from av import VideoFormat
    from av.filter import Graph

    graph = Graph()
    format = VideoFormat((LOSSLESS.alpha if clip.alpha else None) or LOSSLESS.format)
    return graph, graph.add_buffer(
        width=clip.width, height=clip.height, format=format, time_base=clip.time_base
    )


def _stored_frames(parts: Parts, clip: Clip) -> Iterator[VideoFrame]:
    """Yield the frames of all segments in their stored format, with their times in the clip."""
    for segment, path in zip(parts.segments, parts.paths(), strict=True):
        with open_input(path) as file:
            step = (file.streams.video[0].time_base or Fraction(1)) / clip.time_base
            for picture in file.decode(video=0):
                picture.pts = segment.start + round((picture.pts or 0) * step)
                picture.time_base = clip.time_base
                yield picture
