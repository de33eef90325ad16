"""A critic: it learns to tell the texture of a painting from a network's, and the network to pass.

Why: the cheapest picture with the covariances of a painting is a weave of short stripes, with the
photo embossed in it. Fixed statistics cannot tell it from strokes. A critic learns to, as soon as
such a weave appears.
It sees patches of VGG's features: Li and Wand, "Precomputed real-time texture synthesis
with Markovian generative adversarial networks" (2016), https://arxiv.org/abs/1604.04382.
Hinge loss and spectral normalisation: Miyato et al. (2018), https://arxiv.org/abs/1802.05957.
A last row for each of many paintings: Miyato and Koyama (2018), https://arxiv.org/abs/1802.05637.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from faststyle.perceptual.features import extract
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.moments import TINY
from faststyle.perceptual.vgg import VGG, Feats
from faststyle.training.accelerators import as_data, average_gradients
from faststyle.training.view import square

# Patches of 18 and of 40 pixels, with the two convolutions of the critic.
LAYERS = ("relu2_1", "relu3_1")
WIDTH = 64  # channels
RATE = 1e-3  # of Adam
BETAS = (0.5, 0.99)  # Adam's, short: the pictures change from step to step
SLOPE = 0.2  # of its ReLUs below 0


class PatchCritic(nn.Module):
    """Scores each patch of features (B, C, h, w): above 0 for a painting's, below for a network's.

    Patches are of 5x5 features. `paintings` is the number of paintings, each with a row of its own.
    """

    def __init__(self, channels: int, paintings: int) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(channels, WIDTH, 3))
        self.second = spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3))
        self.rows = nn.Parameter(torch.randn(paintings, WIDTH))
        self.offsets = nn.Parameter(torch.zeros(paintings))

    def forward(self, feats: Tensor, which: Tensor) -> Tensor:
        """Return (B, h - 4, w - 4) of features for the paintings `which`, (B,)."""
        row = F.normalize(self.rows[which], dim=1)
        y = F.leaky_relu(self.first(feats), SLOPE)
        y = F.leaky_relu(self.second(y), SLOPE).float()
        score: Tensor = (y * row[:, :, None, None]).sum(1) + self.offsets[which][:, None, None]
        return score


class Critic:
    """The critics of all layers, and how they learn.

    `loss` has the paintings, and watches `LAYERS`. Crops of paintings are `side` pixels, as those
    of pictures are, drawn by `seed`, step and place in the batch of all processes.
    """

    def __init__(
        self,
        loss: PerceptualLoss,
        side: int,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.vgg = loss.vgg
        self.paintings = [painting.to(accelerator.device) for painting in loss.paintings]
        self.side = min(side, *(min(painting.shape[-2:]) for painting in self.paintings))
        self.seed = seed
        self.accelerator = accelerator
        count = len(self.paintings)
        nets = {layer: PatchCritic(_channels(self.vgg, layer), count) for layer in LAYERS}
        self.nets = nn.ModuleDict(nets).to(memory_format=torch.channels_last).to(accelerator.device)
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=RATE, betas=BETAS)
        accelerator.register_for_checkpointing(self.nets, self.optimizer)

    def __call__(self, painted: Feats, numbers: Sequence[int], step: int) -> Tensor:
        """Learn from features of pictures, and return the blame for each picture, (B,).

        `numbers` are those of the paintings that they are for.
        """
        which = as_data(torch.tensor(numbers), self.accelerator.device)
        with torch.no_grad():
            real = extract(self.vgg, self._crops(numbers, step), LAYERS)
        scales = {layer: _scale(feats) for layer, feats in real.items()}
        self._learn(real, {layer: f.detach() for layer, f in painted.items()}, scales, which)
        self.nets.requires_grad_(False)
        scores = [self.nets[layer](painted[layer] * scales[layer], which) for layer in LAYERS]
        self.nets.requires_grad_(True)
        return -torch.stack([score.mean((1, 2)) for score in scores]).mean(0)

    def _learn(self, real: Feats, painted: Feats, scales: Feats, which: Tensor) -> None:
        """Take a step on the hinge loss; of several processes on the mean of their gradients."""
        losses = []
        for layer, scale in scales.items():
            net = self.nets[layer]
            losses.append(F.relu(1 - net(real[layer] * scale, which)).mean())
            losses.append(F.relu(1 + net(painted[layer] * scale, which)).mean())
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        average_gradients(self.accelerator, self.nets.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _crops(self, numbers: Sequence[int], step: int) -> Tensor:
        """Return a crop of the painting of each picture, (B, 3, side, side)."""
        first = self.accelerator.process_index * len(numbers)
        crops = []
        for place, number in enumerate(numbers, first):
            # Repeatable, and no secret: not for cryptography.
            draw = random.Random(f"{self.seed} critic {step} {place}")  # nosec B311
            crops.append(self._crop(self.paintings[number], draw))
        return torch.cat(crops)

    def _crop(self, painting: Tensor, draw: random.Random) -> Tensor:
        top, left = (draw.randint(0, length - self.side) for length in painting.shape[2:])
        return square(painting, top, left, self.side)


def _scale(feats: Tensor) -> Tensor:
    """Return the factors that bring each of (B, C, h, w) to a mean square of 1: (B, 1, 1, 1)."""
    size = feats.float().square().mean((1, 2, 3), keepdim=True)
    return size.clamp_min(TINY).rsqrt()


def _channels(vgg: VGG, layer: str) -> int:
    conv: nn.Conv2d = vgg.convs[layer.removeprefix("relu")]  # type: ignore[assignment]
    return conv.out_channels
