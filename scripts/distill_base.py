"""Teach a network to paint what the base of another one paints, so that its own base need not begin from nothing.

    python scripts/distill_base.py PAINTINGS PHOTOS johnson-16.paintings faststyle/training/bases/mobile-64.safetensors

Both have the same paintings, each with scales and shifts of its own; the student's output is regressed on that of the
teacher, photo by photo. No VGG is needed for that, and what is learned is a function, not a statistic. Layers of the
same name and shape are copied, from the teacher or from what --start names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from train_base import BALANCE, LOG_EVERY, NETWORK, Painted, endless_photos, keep, kept_file, write_base

from faststyle.devices import keep_freed_memory
from faststyle.images import fit_shorter, read_image
from faststyle.networks import build_network
from faststyle.training.recipe import load_recipe
from faststyle.training.trainer import BETAS

RATE, OWN_RATE = 5e-3, 1e-2
WARM_UP = 100  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paintings", type=Path)
    parser.add_argument("photos", help="as faststyle train --photos")
    parser.add_argument("teacher", type=Path, help="a .paintings file of train_base.py")
    parser.add_argument("output", type=Path, help="the base; its .paintings file is written beside it")
    parser.add_argument("--about-photos", help="what the photos are and what they may be used for")
    parser.add_argument("--network", default="mobile")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="another .paintings file to take layers from")
    parser.add_argument("--resume", action="store_true", help="go on from the output's .paintings file")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    recipe = dataclasses.replace(load_recipe("quick"), seed=args.seed)
    paintings = [fit_shorter(read_image(p), recipe.painting_size) for p in sorted(args.paintings.glob("*.png"))]
    config = {"name": args.network, "width": args.width}
    kept = load_file(args.teacher)
    with safe_open(args.teacher, "pt") as file:
        teacher = Painted(build_network(json.loads(file.metadata()[NETWORK])), paintings)
    teacher.load(kept)
    student = Painted(build_network(config), paintings)
    start = kept_file(args.output) if args.resume else args.start or args.teacher
    student.load(student.like_its_own(load_file(start)))
    optimizer = torch.optim.Adam(student.groups(RATE, OWN_RATE), betas=BETAS)

    began, total = time.monotonic(), torch.zeros(())
    for step, batch in enumerate(endless_photos(args.photos, recipe), 1):
        done = (time.monotonic() - began) / (60 * args.minutes)
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, (RATE, OWN_RATE), strict=True):
            group["lr"] = rate * min(1, step / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
        which = draw.randrange(len(paintings))
        photos = batch["photo"].float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = teacher.choose(which)(photos)
        error = F.mse_loss(student.choose(which)(photos), wanted) / wanted.var()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(student.shared.values(), 1.0)
        optimizer.step()
        total += error.detach()
        if step % LOG_EVERY == 0:
            mean = float(total) / LOG_EVERY
            print(
                f"{step} steps, {time.monotonic() - began:.0f} s: share of variance not explained {mean:.3f}",
                flush=True,
            )
            total.zero_()
    keep(args.output, student, config, kept[BALANCE])
    photos_are = args.about_photos or args.photos
    about = {"network": config, "paintings": len(paintings), "photos": photos_are, "teacher": args.teacher.stem}
    write_base(args.output, student.mean(), {**about, "minutes": args.minutes})


if __name__ == "__main__":
    main()
