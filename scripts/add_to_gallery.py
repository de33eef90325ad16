"""Judge a checkpoint on a folder of photos, and put it into the gallery with its scores.

    python scripts/add_to_gallery.py CHECKPOINT nocturne data/styles/nocturne.png JUDGED_PHOTOS \
        --photos "1,291 photos of BSDS500 and of ImageNet's classes (research use)" \
        --license "research use"

Its name there is NAME-NETWORK.safetensors. One with a grid, stripes or a border, as the judge
measures them, is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from faststyle.checkpoint import GALLERY, load_checkpoint, save_checkpoint
from faststyle.compare.scores import judge_results

# Alarms: photos have about 2, 1, 1 and 0, published networks a grid of 30 to 150. Look at the
# pictures.
MOST = {"grid": 60.0, "stripes": 30.0, "border": 1.5, "edges": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("painting", type=Path)
    parser.add_argument("judged", type=Path, help="photos that it was not trained on")
    parser.add_argument(
        "--photos", required=True, help="what it was trained on, and what those may be used for"
    )
    parser.add_argument("--license", required=True)
    args = parser.parse_args()
    network, about = load_checkpoint(args.checkpoint)
    scores, vgg = judge_results(args.checkpoint, args.painting, args.judged)
    print(f"{args.checkpoint}: {scores}, {vgg}")
    bad = [
        f"{name} {getattr(scores, name):.2f} of {most}"
        for name, most in MOST.items()
        if getattr(scores, name) > most
    ]
    if bad:
        raise SystemExit(f"not shipped: {', '.join(bad)}")
    # A file that it began from is the base of the package by then.
    recipe = {**about.recipe, "photos": args.photos, "init": "base"}
    kept = {key: about.scores[key] for key in ("content_rel", "style_rel")}
    about = dataclasses.replace(
        about,
        photos=args.photos,
        license=args.license,
        recipe=recipe,
        scores={**kept, **dataclasses.asdict(scores)},
    )
    target = GALLERY / f"{args.name}-{about.network['name']}.safetensors"
    target.parent.mkdir(exist_ok=True)
    save_checkpoint(target, network, about, torch.float16)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
