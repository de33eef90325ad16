"""Make docs/pictures/failures.jpg: where the networks that come along fail, at 100 %.

    python scripts/failure_pictures.py

A row is a part of a photo, and what each network makes of it. All photos are free: those of
scikit-image and matplotlib, and a drawing that is made here. It takes some minutes on two cores.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import pad

from faststyle import Stylizer, read_image, write_image
from faststyle.sizes import resize
from faststyle.training.photos import sample_folder

TARGET = Path(__file__).parents[1] / "docs" / "pictures" / "failures.jpg"
STYLES = ("great_wave", "the_scream", "composition_vii")
LONGER = 512  # pixels: longer side at which photos are painted
CELL = (220, 300)  # height and width in pixels, of what is shown of each
GAP = 4  # pixels of white between pictures
DARK = 0.1  # share of the light that is left in the dark photo
NOISE = 0.015  # standard deviation of its noise, of levels in [0, 1]


def main() -> None:
    rows = photos()
    columns = [[photo for photo, _, _ in rows]]
    for style in STYLES:
        stylizer = Stylizer.load(style)
        columns.append([stylizer(photo) for photo, _, _ in rows])
    cells = [
        [_cell(picture, top, left) for picture, (_, top, left) in zip(column, rows, strict=True)]
        for column in columns
    ]
    sheet = torch.cat([torch.cat(column, 2) for column in cells], 3)
    write_image(sheet[..., :-GAP, :-GAP], TARGET, quality=82)


def photos() -> list[tuple[Tensor, int, int]]:
    """Return photos, (1, 3, H, W) in [0, 1], and the top and left of the part that is shown."""
    folder = sample_folder()
    with get_sample_data("grace_hopper.jpg") as file:
        hopper = read_image(file.read())
    return [
        (_longer(read_image(folder / "page.png")), 0, 0),
        (drawing(), 0, 0),
        (_longer(read_image(folder / "rocket.jpg")), 60, 140),
        (_longer(darkened(hopper)), 80, 70),
        (_longer(read_image(folder / "camera.png")), 40, 20),
        (_longer(read_image(folder / "astronaut.png")), 0, 80),
    ]


def darkened(photo: Tensor) -> Tensor:
    """Return a photo, (1, 3, H, W) in [0, 1], as in low light: a tenth of the light, and noise."""
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    level: float = DARK ** (1 / 2.2)
    return (photo * level + NOISE * noise).clamp(0, 1)


def drawing() -> Tensor:
    """Return a line drawing, (1, 3, 220, 300) in [0, 1]: the sun, a tree, a man."""
    image = Image.new("RGB", (1200, 880), "white")
    pen = ImageDraw.Draw(image)
    for line in (
        [(0, 840), (400, 800), (800, 850), (1200, 820)],
        [(290, 810), (290, 520)],
        [(330, 810), (330, 520)],
        [(660, 760), (780, 620), (900, 740)],
        [(780, 560), (780, 850)],
    ):
        pen.line(line, "black", 7, "curve")
    for x, y, radius in (
        (310, 380, 130),
        (210, 440, 90),
        (410, 440, 90),
        (780, 460, 95),
        (745, 440, 10),
        (815, 440, 10),
        (960, 190, 110),
    ):
        pen.circle((x, y), radius, "white", "black", 7)
    pen.arc((740, 480, 820, 535), 20, 160, "black", 7)
    for angle in range(0, 360, 30):
        across = math.cos(math.radians(angle))
        down = math.sin(math.radians(angle))
        ends = [(960 + r * across, 190 + r * down) for r in (130, 185)]
        pen.line(ends, "black", 7)
    return read_image(image.reduce(4))


def _longer(photo: Tensor) -> Tensor:
    h, w = photo.shape[-2:]
    scale = LONGER / max(h, w)
    return resize(photo, round(h * scale), round(w * scale))


def _cell(picture: Tensor, top: int, left: int) -> Tensor:
    height, width = CELL
    return pad(picture[..., top : top + height, left : left + width], (0, GAP, 0, GAP), value=1.0)


if __name__ == "__main__":
    main()
