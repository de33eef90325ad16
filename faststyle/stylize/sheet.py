"""A contact sheet: one photo in many styles, each with its name below."""

from __future__ import annotations

import math
from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from faststyle.images import ImageSource, fit_shorter, read_image, to_pil
from faststyle.stylize.stylizer import Stylizer

GAP = 8  # pixels between pictures
LINE = 24  # pixels: height of a line with a name
FONT = 15  # pixels


def contact_sheet(
    photo: ImageSource, stylizers: Iterable[tuple[str, Stylizer]], size: int = 320
) -> Image.Image:
    """Return the photo and its picture in each style, in rows that fill about a square.

    `stylizers` come with the names to write below. `size` is the shorter side of each picture, in
    pixels.

    Example:
        >>> contact_sheet("photo.jpg", [("nocturne", Stylizer.load("nocturne"))]).save("sheet.png")
    """
    rgb = fit_shorter(read_image(photo), size)
    pictures = [
        ("photo", to_pil(rgb)),
        *((name, to_pil(stylizer(rgb))) for name, stylizer in stylizers),
    ]
    w, h = pictures[0][1].size
    columns = _columns(h, w, len(pictures))
    sheet = Image.new("RGB", sheet_size(h, w, len(pictures))[::-1], "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT)
    for i, (name, picture) in enumerate(pictures):
        x = GAP + i % columns * (w + GAP)
        y = GAP + i // columns * (h + LINE + GAP)
        sheet.paste(picture, (x, y))
        draw.text((x + w // 2, y + h + LINE // 2), name, "black", font, anchor="mm")
    return sheet


def sheet_size(h: int, w: int, pictures: int) -> tuple[int, int]:
    """Return the height and width of a sheet of so many pictures of HxW pixels."""
    columns = _columns(h, w, pictures)
    rows = math.ceil(pictures / columns)
    return rows * (h + LINE + GAP) + GAP, columns * (w + GAP) + GAP


def _columns(h: int, w: int, pictures: int) -> int:
    return math.ceil(math.sqrt(pictures * h / w))
