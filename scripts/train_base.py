"""Train the base that `--init base` starts from: one network for many generated paintings.

    python scripts/base_paintings.py PAINTINGS --count 64 --size 384
    python scripts/train_base.py PAINTINGS PHOTOS faststyle/training/bases/mobile-64.safetensors --minutes 45

All paintings share the convolutions; each has a scale and shift of its own in the instance normalisations, as Dumoulin
et al. have it, and a weight of style of its own, found as training/balance.py finds it. The base is the convolutions
with the mean of those scales and shifts: what all paintings have in common, from where each is near. It sees no real
painting, so that none has to be left out when it is tested. What belongs to single paintings is kept beside the output
(.paintings) at each line of the log, so that --resume can go on with more minutes.

Source: Dumoulin, Shlens, Kudlur, "A learned representation for artistic style" (2016), https://arxiv.org/abs/1610.07629
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faststyle.devices import find_precision, keep_freed_memory
from faststyle.files import writing
from faststyle.images import fit_shorter, read_image
from faststyle.networks import build_network
from faststyle.networks.layers import InstanceNorm
from faststyle.networks.start import StyleNetwork
from faststyle.perceptual.losses import PerceptualLoss, deepest_layers
from faststyle.perceptual.weights import find_weights, load_vgg
from faststyle.training.balance import LIMITS, MOST
from faststyle.training.balance import RATE as BALANCE_RATE
from faststyle.training.photos import Batch, open_source, photo_loader
from faststyle.training.recipe import Recipe, load_recipe
from faststyle.training.start import KEY, PALETTE, SCRATCH, start_network
from faststyle.training.trainer import BETAS
from faststyle.training.view import draw_view

RATE, OWN_RATE = 1e-2, 2e-2  # each painting's scales and shifts are seen far less often than the convolutions
WARM_UP = 100  # steps in which the rate rises
LOG_EVERY = 128
BALANCE, NETWORK = "balance", "network"  # entries of a .paintings file: a tensor, and a metadata entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paintings", type=Path)
    parser.add_argument("photos", help="as faststyle train --photos")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--about-photos", help="what the photos are and what they may be used for")
    parser.add_argument("--network", default="mobile")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--init", default=SCRATCH, help="as faststyle train --init; base: the one that there is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    recipe = dataclasses.replace(load_recipe("quick"), seed=args.seed)
    half = find_precision(recipe.precision, torch.device("cpu")) == "bf16"
    config = {"name": args.network, "width": args.width}
    weights = find_weights(recipe.vgg, None)
    layout = torch.channels_last
    vgg = load_vgg(weights, deepest_layers(recipe.loss, recipe.vgg)).to(memory_format=layout)
    paintings = [fit_shorter(read_image(p), recipe.painting_size) for p in sorted(args.paintings.glob("*.png"))]
    losses = [PerceptualLoss(vgg, painting, recipe.loss) for painting in paintings]

    plain = build_network(config)
    start_network(plain, config, args.init)
    network = Painted(plain, paintings)
    balance = torch.full((len(paintings),), 0.4)
    if args.resume:
        kept = load_file(kept_file(args.output))
        balance = kept[BALANCE]
        network.load(kept)
    optimizer = torch.optim.Adam(network.groups(RATE, OWN_RATE), betas=BETAS)

    began, step, sums, order = time.monotonic(), 0, torch.zeros(3), []
    for batch in endless_photos(args.photos, recipe):
        done = (time.monotonic() - began) / (60 * args.minutes)
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, (RATE, OWN_RATE), strict=True):
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done))
        order = order or draw.sample(range(len(paintings)), len(paintings))
        which = order.pop()
        photos: Tensor = batch["photo"].float().div(255).contiguous(memory_format=layout)
        view, loss = draw_view(recipe, step), losses[which]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            targets = loss.targets(view.of(photos), view.window)
            terms = loss(view.of(network.choose(which)(photos)), targets, view.window)
        optimizer.zero_grad()
        (terms.content + balance[which] * (terms.style + terms.mean)).backward()
        nn.utils.clip_grad_norm_(network.shared.values(), recipe.clip_norm)
        optimizer.step()
        step += 1
        off = recipe.content_target - terms.content_rel.detach().clamp(max=MOST)
        balance[which] = (balance[which] * torch.exp(BALANCE_RATE * off)).clamp(*LIMITS)
        sums += torch.stack([terms.content_rel, terms.style_rel, balance[which]]).detach()
        if step % LOG_EVERY == 0:
            means = " ".join(f"{value:.3f}" for value in (sums / LOG_EVERY).tolist())
            print(
                f"{step} steps, {time.monotonic() - began:.0f} s: content_rel, style_rel, balance {means}", flush=True
            )
            sums.zero_()
            keep(args.output, network, config, balance)

    about = {
        "network": config,
        "paintings": len(paintings),
        "photos": args.about_photos or args.photos,
        "steps": step,
        "vgg": weights.id,
    }
    keep(args.output, network, config, balance)
    write_base(args.output, network.mean(), about)


def endless_photos(photos: str, recipe: Recipe) -> Iterable[Batch]:
    """Return batches of photos, more of them than there is time for."""
    return photo_loader(
        open_source(photos, recipe.seed),
        size=recipe.image_size,
        batch_size=recipe.batch_size,
        start=0,
        stop=recipe.batch_size * 10**6,
        seed=recipe.seed,
        workers=1,
    )


class Painted:
    """A network with convolutions that are shared, and scales and shifts of the norms for each of many paintings."""

    def __init__(self, network: StyleNetwork, paintings: list[Tensor]) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.paintings = paintings
        self.norms = {name: m for name, m in network.named_modules() if isinstance(m, InstanceNorm)}
        self.shared = {n: p for n, p in network.named_parameters() if n.rpartition(".")[0] not in self.norms}
        self.own = {  # scales and shifts by name
            f"{n}.{kind}": [nn.Parameter(getattr(m, kind).detach().clone()) for _ in paintings]
            for n, m in self.norms.items()
            for kind in ("weight", "bias")
        }

    def choose(self, which: int) -> StyleNetwork:
        """Return the network for a painting."""
        for name, values in self.own.items():
            norm, _, kind = name.rpartition(".")
            setattr(self.norms[norm], kind, values[which])
        self.network.set_palette(self.paintings[which])
        return self.network

    def groups(self, rate: float, own_rate: float) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, as an optimiser takes them."""
        own = [p for values in self.own.values() for p in values]
        return [{"params": [*self.shared.values()], "lr": rate}, {"params": own, "lr": own_rate}]

    def load(self, kept: dict[str, Tensor]) -> None:
        """Take what `tensors` returned, or a part of it."""
        for name, value in kept.items():
            if name in self.shared:
                self.shared[name].data.copy_(value)
            for own, old in zip(self.own.get(name, ()), value, strict=False):
                own.data.copy_(old)

    def like_its_own(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return those that it has too, in the same shape."""
        own = self.tensors()
        return {name: t for name, t in tensors.items() if name in own and t.shape == own[name].shape}

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by name; scales and shifts stacked by painting."""
        shared = {name: p.detach().contiguous() for name, p in self.shared.items()}
        return shared | {name: torch.stack(values).detach() for name, values in self.own.items()}

    def mean(self) -> dict[str, Tensor]:
        """Return the base: what is shared, and the mean of the rest."""
        return {n: t.mean(0) if n in self.own else t for n, t in self.tensors().items()}


def kept_file(output: Path) -> Path:
    return output.with_suffix(".paintings")


def keep(output: Path, network: Painted, config: dict[str, Any], balance: Tensor) -> None:
    """Write all that belongs to single paintings, whole or not at all."""
    with writing(kept_file(output)) as temporary:
        save_file(network.tensors() | {BALANCE: balance}, temporary, metadata={NETWORK: json.dumps(config)})


def write_base(path: Path, tensors: dict[str, Tensor], about: dict[str, object]) -> None:
    """Write the base without the palette of any painting, in half precision: it is only where training starts."""
    kept = {k: v.half().contiguous() for k, v in tensors.items() if not k.startswith(PALETTE)}
    save_file(kept, path, metadata={KEY: json.dumps(about)})


if __name__ == "__main__":
    main()
