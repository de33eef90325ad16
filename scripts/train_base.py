"""Train the base that `--init base` starts from: one network for many generated paintings.

    python scripts/base_paintings.py PAINTINGS --count 64 --size 384
    python scripts/train_base.py PAINTINGS PHOTOS faststyle/training/bases/johnson-16.safetensors --minutes 28

All paintings share the convolutions; each has a scale and shift of its own in the instance normalisations, as Dumoulin
et al. have it. The base is the convolutions with the mean of those scales and shifts: what all paintings have in
common, from where each is near. It sees no real painting, so that none has to be left out when it is tested.

Source: Dumoulin, Shlens, Kudlur, "A learned representation for artistic style" (2016), https://arxiv.org/abs/1610.07629
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faststyle.devices import keep_freed_memory
from faststyle.images import fit_shorter, read_image
from faststyle.networks import build_network
from faststyle.networks.johnson import InstanceNorm
from faststyle.perceptual.features import Window
from faststyle.perceptual.losses import PerceptualLoss, deepest_layers
from faststyle.perceptual.weights import find_weights, load_vgg
from faststyle.training.photos import open_source, photo_loader
from faststyle.training.recipe import load_recipe
from faststyle.training.start import KEY, PALETTE

BATCH, SIZE, WINDOW = 2, 192, 128  # those of quick
RATE, AFFINE_RATE = 4e-3, 12e-3  # each painting's scales and shifts are seen far less often than the convolutions
BETAS = (0.9, 0.99)
WARM_UP, FLAT = 50, 0.3  # steps in which the rate rises; share of the time before it falls
LOG_EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paintings", type=Path)
    parser.add_argument("photos", help="as faststyle train --photos")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    layout = torch.channels_last
    config = {"name": "johnson", "width": args.width}
    loss_config = load_recipe("quick", ["init=scratch"]).loss
    weights = find_weights("vgg16", None)
    vgg = load_vgg(weights, deepest_layers(loss_config, "vgg16")).to(memory_format=layout)
    files = sorted(args.paintings.glob("*.png"))
    paintings = [fit_shorter(read_image(path), 384) for path in files]
    losses = [PerceptualLoss(vgg, painting, loss_config) for painting in paintings]

    network = build_network(config).to(memory_format=layout).train()
    norms = [m for m in network.modules() if isinstance(m, InstanceNorm)]
    shared = [p for n, p in network.named_parameters() if not any(p is q for m in norms for q in (m.weight, m.bias))]
    affine = [[(nn.Parameter(m.weight.clone()), nn.Parameter(m.bias.clone())) for m in norms] for _ in files]
    own = [p for of_one in affine for pair in of_one for p in pair]
    groups = [{"params": shared, "lr": RATE}, {"params": own, "lr": AFFINE_RATE}]
    optimizer = torch.optim.Adam(groups, betas=BETAS)

    began, step, sums = time.monotonic(), 0, torch.zeros(3)
    loader = photo_loader(
        open_source(args.photos, args.seed),
        size=SIZE,
        batch_size=BATCH,
        start=0,
        stop=BATCH * 10**6,
        seed=args.seed,
        workers=1,
    )
    for batch in loader:
        done = (time.monotonic() - began) / (60 * args.minutes)
        if done >= 1:
            break
        factor = min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * max(0, (done - FLAT) / (1 - FLAT))))
        for group, rate in zip(optimizer.param_groups, (RATE, AFFINE_RATE), strict=True):
            group["lr"] = rate * factor
        which = draw.randrange(len(files))
        for norm, (weight, bias) in zip(norms, affine[which], strict=True):
            norm.weight, norm.bias = weight, bias
        network.set_palette(paintings[which])  # type: ignore[operator]
        photos: Tensor = batch["photo"].float().div(255).contiguous(memory_format=layout)
        window = Window(draw.randint(0, SIZE - WINDOW), draw.randint(0, SIZE - WINDOW), WINDOW)
        terms = losses[which](network(photos), losses[which].targets(photos, window), window)
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(shared, 1000.0)
        optimizer.step()
        step += 1
        sums += torch.stack([terms.total, terms.content_rel, terms.style_rel]).detach()
        if step % LOG_EVERY == 0:
            means = " ".join(f"{value:.3f}" for value in (sums / LOG_EVERY).tolist())
            print(f"{step} steps, {time.monotonic() - began:.0f} s: total, content_rel, style_rel {means}", flush=True)
            sums.zero_()

    for i, norm in enumerate(norms):
        norm.weight, norm.bias = (nn.Parameter(torch.stack([of[i][k] for of in affine]).mean(0)) for k in (0, 1))
    about = {
        "network": config,
        "paintings": len(files),
        "photos": args.photos if "/" not in args.photos else Path(args.photos).name,
        "steps": step,
        "vgg": weights.id,
    }
    write_base(args.output, dict(network.state_dict()), about)


def write_base(path: Path, tensors: dict[str, Tensor], about: dict[str, object]) -> None:
    """Write the base without the palette of any painting, in half precision: it is only where training starts."""
    kept = {k: v.detach().half().contiguous() for k, v in tensors.items() if not k.startswith(PALETTE)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, path, metadata={KEY: json.dumps(about)})


if __name__ == "__main__":
    main()
