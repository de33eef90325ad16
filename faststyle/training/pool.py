"""The covariances that a network paints on average: style asked of many photos together.

A network that is asked for the painting's covariances on each photo bets low: it cannot know what a photo needs, and
squared errors are smallest, over photos, for textures weaker than the painting's. The error of the mean over photos
asks for their full strength; that of single photos, a share of the whole, keeps them together.

What it is not: an estimate for logs. Steps in a run see the mean of the steps before, which is why it is saved with
the state. Source of matching means of features over samples: Li, Swersky, Zemel, "Generative moment matching networks"
(2015), https://arxiv.org/abs/1502.02761. Differs from Johnson et al. (2016), who compare each image.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from faststyle.perceptual.features import TINY
from faststyle.perceptual.losses import relative_error

DECAY = 0.95  # of the running mean, a step


class GramPool:
    """Running means of the covariances of a network's pictures, by key: one for each layer of each style.

    `share` of the error is that of the mean, the rest that of each image.

    Example:
        >>> terms = loss(network(photo), loss.targets(photo), gram_error=pool.error)
        >>> pool.step(accelerator)
    """

    def __init__(self, share: float, device: torch.device) -> None:
        self.share, self.device = share, device
        self.steps = 0
        self.running: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}  # of the batches of this step
        self.images: dict[str, int] = {}

    def error(self, key: str, gram: Tensor, target: Tensor, norm: Tensor) -> Tensor:
        """Return squared errors, (B,), of covariances (B, C, C) against the painting's, (C, C).

        They are relative to `norm`, a scalar. The mean's is the same for all images; its gradient
        is that with respect to the mean, given to each. In the first step there is no mean yet: the
        error is that of each image.
        """
        flat, wanted = gram.float().flatten(1), target.float().flatten()
        norm = norm.clamp_min(TINY)
        own = relative_error(gram, target, norm)
        self.sums[key] = self.sums.get(key, 0) + flat.detach().sum(0)
        self.images[key] = self.images.get(key, 0) + len(flat)
        if key not in self.running:
            return own
        off = self.running[key] - wanted
        along = (flat @ off) * (2 / norm)
        return (1 - self.share) * own + self.share * (off.square().sum() / norm + along - along.detach())

    def step(self, accelerator: Accelerator | None = None) -> None:
        """Take what this step added, in all processes of `accelerator`, into the running means."""
        self.steps += 1
        weight = max(1 - DECAY, 1 / self.steps)  # a plain mean as long as there are few
        for key, total in self.sums.items():
            mean = total / self.images[key]
            if accelerator is not None:
                mean = accelerator.reduce(mean, "mean")
            self.running[key] = torch.lerp(self.running[key], mean, weight) if key in self.running else mean
        self.sums, self.images = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs; Accelerate writes it with the rest of the state."""
        return {"steps": self.steps, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.steps = state["steps"]
        self.running = {key: mean.to(self.device) for key, mean in state["running"].items()}
