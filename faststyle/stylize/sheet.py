"""A contact sheet: one photo in many styles, each with its name, scores and speed below."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from faststyle.checkpoint import About
from faststyle.images import ImageSource, read_image, to_pil
from faststyle.sizes import fit_shorter
from faststyle.stylize.stylizer import Stylizer

GAP = 8  # pixels between pictures
LINE = 20  # pixels: height of a line below a picture
LINES = 2  # the name; scores and speed
FONT = 15  # pixels
SMALL_FONT = 12  # pixels, of scores and speed
LEAST_FONT = 6  # pixels; a line that is wider than its picture is written no smaller than this
TIMED_RUNS = 2  # after one that warms up; the faster one counts
SHOWN = ("style_closed", "clear_distance", "light")  # scores of the judge


@dataclass(frozen=True)
class Painted:
    """A photo in one style: its picture, (1, 3, H, W) in [0, 1], and the seconds that one takes.

    `about` is the metadata of the network, None where nothing is known.
    """

    name: str
    picture: Tensor
    seconds: float
    about: About | None

    @property
    def scores(self) -> Mapping[str, Any]:
        """Return the scores of the network that are shown, where it has any."""
        known = self.about.scores if self.about else {}
        return {name: known[name] for name in SHOWN if name in known}

    @property
    def figures(self) -> str:
        """Return scores and milliseconds in one line."""
        scores = [f"{name} {value:.2f}" for name, value in self.scores.items()]
        return ", ".join([*scores, f"{1000 * self.seconds:.0f} ms"])


def paint_each(photo: Tensor, stylizers: Iterable[tuple[str, Stylizer]]) -> Iterator[Painted]:
    """Yield a photo, (1, 3, H, W) in [0, 1], in each style, with the name that came with it."""
    for name, stylizer in stylizers:
        picture, seconds = paint_timed(stylizer, photo)
        yield Painted(name, picture, seconds, stylizer.about)


def paint_timed(
    stylizer: Stylizer, photo: Tensor, abstraction: float | None = None
) -> tuple[Tensor, float]:
    """Return a photo, (1, 3, H, W), in a style, and the seconds that this takes once it is warm.

    Of several runs the fastest counts: what else the machine does can only slow them down.
    """
    picture: Tensor = stylizer(photo, abstraction=abstraction)
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        stylizer(photo, abstraction=abstraction)
        if stylizer.engine.device != "cpu" and torch.accelerator.is_available():
            torch.accelerator.synchronize()  # a GPU works on after a call returns
        times.append(time.perf_counter() - began)
    return picture, min(times)


def contact_sheet(
    photo: ImageSource, stylizers: Iterable[tuple[str, Stylizer]], size: int = 320
) -> Image.Image:
    """Return the photo and its picture in each style, in rows that fill about a square.

    `stylizers` come with the names to write below, above scores and speed. `size` is the shorter
    side of each picture, in pixels.

    Example:
        >>> contact_sheet("photo.jpg", [("nocturne", Stylizer.load("nocturne"))]).save("sheet.png")
    """
    rgb = fit_shorter(read_image(photo), size)
    pictures = [
        (to_pil(rgb), "photo", ""),
        *((to_pil(one.picture), one.name, one.figures) for one in paint_each(rgb, stylizers)),
    ]
    w, h = pictures[0][0].size
    columns = _columns(h, w, len(pictures))
    sheet = Image.new("RGB", sheet_size(h, w, len(pictures))[::-1], "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, *lines) in enumerate(pictures):
        x = GAP + i % columns * (w + GAP)
        y = GAP + i // columns * (_cell_height(h) + GAP)
        sheet.paste(picture, (x, y))
        for number, (line, font) in enumerate(zip(lines, (FONT, SMALL_FONT), strict=True)):
            place = (x + w // 2, y + h + LINE * number + LINE // 2)
            draw.text(place, line, "black", _fitting_font(line, font, w), anchor="mm")
    return sheet


def sheet_size(h: int, w: int, pictures: int) -> tuple[int, int]:
    """Return the height and width of a sheet of so many pictures of HxW pixels."""
    columns = _columns(h, w, pictures)
    rows = math.ceil(pictures / columns)
    return rows * (_cell_height(h) + GAP) + GAP, columns * (w + GAP) + GAP


def _cell_height(h: int) -> int:
    return h + LINES * LINE


def _columns(h: int, w: int, pictures: int) -> int:
    return math.ceil(math.sqrt(pictures * h / w))


def _fitting_font(line: str, size: int, width: int) -> Any:
    """Return the font of a size, smaller where the line would be wider than so many pixels."""
    font = ImageFont.load_default(size)
    length = font.getlength(line)
    if length <= width:
        return font
    return ImageFont.load_default(max(LEAST_FONT, int(size * width / length)))
