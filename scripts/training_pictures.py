"""Make the pictures of docs/training.md from checkpoints and from the logs of runs.

    python scripts/training_pictures.py sheet TARGET CHECKPOINT ...
    python scripts/training_pictures.py strengths TARGET night-0.5 night-1 night-2 wave-0.5 ...
    python scripts/training_pictures.py curves TARGET outputs/starry_night outputs/great_wave
    python scripts/training_pictures.py steps TARGET outputs/great_wave 100 200 500
    python scripts/training_pictures.py blend TARGET CHECKPOINT CHECKPOINT

A sheet has two photos on the left, then a column of their pictures for each checkpoint. Strengths
are checkpoints in threes, two threes a row, each on one photo. Steps are strips that a run left at
those steps. A blend has four columns for two photos: the first style, the mean of both pictures,
the picture of the mean of both networks, the second style. No painting is shown that is not ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faststyle import Stylizer, read_image, write_image
from faststyle.sizes import crop_centre
from faststyle.training.photos import held_out_photos

SIZE = 256  # pixels: side of each picture of a sheet
GAP = 4  # pixels of white between pictures
TAGS = {
    "content_rel": "content error, relative",
    "style_rel": "style error, relative",
    "balance": "weight of style",
}


def sheet(target: Path, checkpoints: list[str]) -> None:
    photos = [crop_centre(read_image(path), SIZE) for path in held_out_photos()]
    stylizers = [Stylizer.load(checkpoint) for checkpoint in checkpoints]
    columns = [photos, *([stylizer(photo) for photo in photos] for stylizer in stylizers)]
    picture = torch.cat([torch.cat([_framed(cell) for cell in column], 2) for column in columns], 3)
    write_image(picture, target, quality=85)


def strengths(target: Path, checkpoints: list[str]) -> None:
    photos = [crop_centre(read_image(path), SIZE) for path in held_out_photos()]
    cells = [
        _framed(Stylizer.load(checkpoint)(photos[i // 3 % 2]))
        for i, checkpoint in enumerate(checkpoints)
    ]
    cells += [torch.ones_like(cells[0])] * (-len(cells) % 6)
    rows = [torch.cat(cells[i : i + 6], 3) for i in range(0, len(cells), 6)]
    write_image(torch.cat(rows, 2), target, quality=85)


def steps(target: Path, run_and_steps: list[str]) -> None:
    run, *wanted = run_and_steps
    rows = [_framed(read_image(Path(run) / "strips" / f"{int(step):06d}.png")) for step in wanted]
    write_image(torch.cat(rows, 2), target, quality=85)


def blend(target: Path, checkpoints: list[str]) -> None:
    first, second = (Stylizer.load(checkpoint) for checkpoint in checkpoints)
    both = Stylizer.blend(checkpoints)
    rows = []
    for photo in (crop_centre(read_image(path), SIZE) for path in held_out_photos()):
        a = first(photo)
        b = second(photo)
        rows.append(torch.cat([_framed(cell) for cell in (a, (a + b) / 2, both(photo), b)], 3))
    write_image(torch.cat(rows, 2), target, quality=85)


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
    kind, target, *rest = sys.argv[1:]
    {"sheet": sheet, "strengths": strengths, "curves": curves, "steps": steps, "blend": blend}[
        kind
    ](Path(target), rest)
