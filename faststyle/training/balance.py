"""The weight of style against content, found by itself: style as strong as a given content error allows.

What it is not: a schedule. After `SETTLED` of the steps the weight stays, and is stored with the objective, so that
what was trained for is a fixed function again.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from faststyle.perceptual.losses import PerceptualLoss

EVERY = 10  # steps between changes: the content error of a few photos is mostly that of the photos
RATE = 0.3  # of the logarithm of the weight, for a content error that is off by 1
MOST = 2.0  # what a batch's content_rel counts at most: that of flat photos has no bounds
LIMITS = (1 / 16, 16.0)
SETTLED = 0.6  # share of the steps after which the weight stays


class Balance:
    """Raises or lowers `loss.balance` until content_rel is what is wanted: dual ascent on that constraint.

    `target` is the content_rel wanted at a strength of 1; a strength s asks for 1 - (1 - target)^s, so that 0 keeps all
    of the photo and large values nothing. A target of 0 leaves the weight alone; so does a strength of 0 or infinity.
    """

    def __init__(self, loss: PerceptualLoss, target: float, strength: float, steps: int) -> None:
        self.loss = loss
        self.on = target > 0 and 0 < strength < float("inf")
        self.target = 1 - (1 - target) ** strength if self.on else 0.0
        self.last = SETTLED * steps
        self.sum = torch.zeros_like(loss.balance)  # of content_rel since the last change
        self.count = torch.zeros_like(loss.balance)

    def add(self, content_rel: Tensor) -> None:
        """Count the content error of a batch, a scalar."""
        if self.on:
            self.sum += content_rel.detach().clamp(max=MOST)
            self.count += 1

    def adjust(self, step: int, accelerator: Accelerator) -> None:
        """Change the weight, if it is due after step `step`; nothing waits for the device."""
        if not self.on or step % EVERY or step > self.last:
            return
        mean = accelerator.reduce(self.sum, "mean") / self.count
        self.loss.balance.mul_(torch.exp(RATE * (self.target - mean))).clamp_(*LIMITS)
        self.sum.zero_()
        self.count.zero_()

    def state(self, accelerator: Accelerator) -> dict[str, float]:
        """Return what resuming needs, as plain data."""
        total = accelerator.reduce(self.sum, "mean")
        return {"balance": float(self.loss.balance), "sum": float(total), "count": float(self.count)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.loss.balance.fill_(state["balance"])
        self.sum.fill_(state["sum"])
        self.count.fill_(state["count"])
