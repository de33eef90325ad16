"""Make docs/pictures/gallery.jpg: our three paintings above what their networks make of two photos.

python scripts/gallery.py    after training nocturne, window and waves
"""

from pathlib import Path

import torch

from faststyle import Stylizer, read_image, write_image
from faststyle.images import crop_centre
from faststyle.training.photos import held_out_photos

ROOT = Path(__file__).parents[1]
STYLES = ("nocturne", "window", "waves")
SIZE = 300  # pixels: side of each picture
GAP = 6  # pixels of white between pictures


def main() -> None:
    photos = [crop_centre(read_image(path), SIZE) for path in held_out_photos()]
    columns = [torch.cat([torch.ones_like(photos[0]), *photos], 2)]
    for style in STYLES:
        stylizer = Stylizer.load(ROOT / "checkpoints" / f"{style}.safetensors")
        painting = crop_centre(read_image(ROOT / "data" / "styles" / f"{style}.png"), SIZE)
        columns.append(torch.cat([painting, *(stylizer(photo) for photo in photos)], 2))
    sheet = torch.cat(columns, 3)
    for i in range(1, 4):
        sheet[..., i * SIZE - GAP // 2 : i * SIZE + GAP // 2] = 1
    for i in range(1, 3):
        sheet[..., i * SIZE - GAP // 2 : i * SIZE + GAP // 2, :] = 1
    write_image(sheet, ROOT / "docs" / "pictures" / "gallery.jpg", quality=88)


if __name__ == "__main__":
    main()
