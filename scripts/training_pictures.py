"""Make the pictures of docs/training.md from checkpoints and from the logs of runs.

    python scripts/training_pictures.py sheet docs/pictures/styles.jpg PAINTING=CHECKPOINT[,CHECKPOINT...] ...
    python scripts/training_pictures.py curves docs/pictures/curves.png outputs/starry_night outputs/great_wave

A sheet has a row for each painting: the painting, then what each of its checkpoints makes of two photos.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faststyle import Stylizer, read_image, write_image
from faststyle.images import crop_centre
from faststyle.training.photos import held_out_photos

SIZE = 256  # pixels: side of each picture of a sheet
GAP = 4  # pixels of white between pictures
TAGS = {"content_rel": "content error, relative", "style_rel": "style error, relative", "balance": "weight of style"}


def sheet(target: Path, rows: list[str]) -> None:
    photos = [crop_centre(read_image(path), SIZE) for path in held_out_photos()]
    lines = []
    for row in rows:
        painting, _, checkpoints = row.partition("=")
        cells = [crop_centre(read_image(painting), SIZE)]
        for checkpoint in checkpoints.split(","):
            stylizer = Stylizer.load(checkpoint)
            cells += [stylizer(photo) for photo in photos]
        lines.append(torch.cat([_framed(cell) for cell in cells], 3))
    write_image(torch.cat(lines, 2), target, quality=85)


def curves(target: Path, runs: list[str]) -> None:
    figure, axes = plt.subplots(1, len(TAGS), figsize=(4 * len(TAGS), 3), layout="constrained")
    for run in runs:
        events = EventAccumulator(f"{run}/tensorboard").Reload()
        for axis, (tag, label) in zip(axes, TAGS.items(), strict=True):
            scalars = events.Scalars(f"train/{tag}")
            minutes = [(s.wall_time - scalars[0].wall_time) / 60 for s in scalars]
            axis.plot(minutes, [s.value for s in scalars], label=Path(run).name)
            axis.set(xlabel="minutes", title=label, yscale="log")
    axes[0].legend(fontsize="small")
    figure.savefig(target, dpi=100)


def _framed(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(picture, (0, GAP, 0, GAP), value=1.0)


if __name__ == "__main__":
    {"sheet": sheet, "curves": curves}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
