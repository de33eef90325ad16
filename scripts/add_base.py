"""Put the newest weights of a collection into the package, training/bases/NAME.safetensors.

    python scripts/add_base.py outputs/collection/newest.safetensors \
        --photos "1,291 photos of BSDS500 and of ImageNet's classes (research use)" \
        --license "research use"

The one named collection is the base, from which training starts.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from faststyle.checkpoint import (
    MEANS,
    SUFFIX,
    base_file,
    read_about,
    read_weights,
    save_checkpoint,
    with_photos,
)
from faststyle.networks import build_network
from faststyle.training.start import SCRATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("newest", type=Path)
    parser.add_argument(
        "--photos", required=True, help="what it saw, and what that may be used for"
    )
    parser.add_argument("--license", required=True, help="the terms of the photos")
    parser.add_argument("--name", default=base_file().stem, help="default: %(default)s")
    args = parser.parse_args()
    about = read_about(args.newest)
    weights = read_weights(args.newest)
    means = weights.pop(MEANS)
    network = build_network(about.network)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    # Where it went on from a file, that file began from scratch and is nowhere else.
    recipe = {**about.recipe, "photos": args.photos, "init": SCRATCH}
    license = with_photos(about, args.license)
    about = dataclasses.replace(about, photos=args.photos, license=license, recipe=recipe)
    target = base_file().with_name(f"{args.name}{SUFFIX}")
    target.parent.mkdir(exist_ok=True)
    save_checkpoint(target, network, about, torch.float16, means)
    count = len(about.paintings)
    print(f"wrote {target}: {count} paintings, {about.photos_seen} photos seen")


if __name__ == "__main__":
    main()
