"""Make the pictures of docs/slow.md: reconstructions of single layers, and the slow path.

    python scripts/slow_pictures.py

It takes some minutes on two cores.
"""

from pathlib import Path

import torch
from torch import Tensor

from faststyle import optimize_image, read_image, write_image
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import WeightedPainting
from faststyle.sizes import crop_centre
from faststyle.slow.optimize import PAPER, TRAINING, SlowConfig
from faststyle.training.photos import held_out_photos

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIDE = 192  # pixels: of each reconstruction
STEPS = 100
CONTENT_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_2", "relu5_1")
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
GAP = 4  # pixels of white between pictures


def main() -> None:
    write_reconstructions()
    write_layers()


def write_reconstructions() -> None:
    """Write reconstructions from layers of content, above those from layers of style."""
    photo = crop_centre(read_image(held_out_photos()[1]), SIDE)
    painting = read_image(ROOT / "data" / "styles" / "nocturne.png")
    row_of_content = [
        photo,
        *(reconstruct(photo, painting, content=layer) for layer in CONTENT_LAYERS),
    ]
    row_of_style = [crop_centre(painting, SIDE)]
    for count in range(1, len(STYLE_LAYERS) + 1):
        row_of_style.append(reconstruct(photo, painting, style=STYLE_LAYERS[:count]))
    write_image(grid([row_of_content, row_of_style]), PICTURES / "reconstruction.jpg", quality=88)


def write_layers() -> None:
    """Write a photo beside its pictures by the layers of the paper and by those of training."""
    painting = read_image(ROOT / "data" / "styles" / "nocturne.png")
    cat = read_image(held_out_photos()[0])
    results = []
    for loss in (PAPER, TRAINING):
        results.append(
            optimize_image(
                cat, [WeightedPainting(painting)], SlowConfig(size=300, steps=100, loss=loss)
            )
        )
    height, width = results[0].shape[-2:]
    original = torch.nn.functional.interpolate(
        cat, (height, width), mode="bicubic", antialias=True
    ).clamp(0, 1)
    write_image(grid([[original, *results]]), PICTURES / "slow.jpg", quality=88)


def reconstruct(
    photo: Tensor, painting: Tensor, content: str | None = None, style: tuple[str, ...] = ()
) -> Tensor:
    """Return an image made from noise by one layer of content, or by layers of style, alone."""
    if content:
        loss = LossConfig(strength=0.0, content_layers={content: 1.0}, style_layers={content: 1.0})
    else:
        loss = LossConfig(
            strength=float("inf"),
            content_layers={style[-1]: 1.0},
            style_layers=dict.fromkeys(style, 1.0),
            mean_weight=0.0,
        )
    config = SlowConfig(size=SIDE, smallest=SIDE, steps=STEPS, init="noise", loss=loss)
    return optimize_image(photo, [WeightedPainting(painting)], config)


def grid(rows: list[list[Tensor]]) -> Tensor:
    """Return pictures side by side, with white between them."""
    padded = [
        [torch.nn.functional.pad(p, (0, GAP, 0, GAP), value=1.0) for p in row] for row in rows
    ]
    return torch.cat([torch.cat(row, 3) for row in padded], 2)[..., :-GAP, :-GAP]


if __name__ == "__main__":
    main()
