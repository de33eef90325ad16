"""The weight of style against content, found by itself: style as strong as a given content error allows.

What it is not: a schedule. After `SETTLED` of the steps the weight stays, and is stored with the objective, so that
what was trained for is a fixed function again.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from faststyle.perceptual.features import TINY
from faststyle.perceptual.losses import PerceptualLoss, Terms

EVERY = 10  # steps between changes: the content error of a few photos is mostly that of the photos
RATE = 0.5  # of the logarithm of the weight, for a content error that is off by 1
MOST = 2.0  # what content_rel counts at most: that of flat photos has no bounds
LIMITS = (1 / 64, 16.0)
SETTLED = 0.85  # share of the steps after which the weight stays


class Balance:
    """Raises or lowers `loss.balance` until content_rel is what is wanted: dual ascent on that constraint.

    Errors and variances are summed up between changes: few photos are flat, and those have no part in it.
    `target` is the content_rel wanted at a strength of 1; a strength s asks for 1 - (1 - target)^s, so that 0 keeps all
    of the photo and large values nothing. A target of 0 leaves the weight alone; so does a strength of 0 or infinity.
    """

    def __init__(self, loss: PerceptualLoss, target: float, strength: float, steps: int) -> None:
        self.loss = loss
        self.on = target > 0 and 0 < strength < float("inf")
        self.target = 1 - (1 - target) ** strength if self.on else 0.0
        self.last = SETTLED * steps
        self.sums = torch.zeros(2, device=loss.balance.device)  # errors and variances since the last change

    def add(self, terms: Terms) -> None:
        """Count the content errors of a batch."""
        if self.on:
            self.sums += torch.stack([terms.content_error, terms.content_variance]).detach()

    def adjust(self, step: int, accelerator: Accelerator) -> None:
        """Change the weight, if it is due after step `step`; nothing waits for the device."""
        if not self.on or step % EVERY or step > self.last:
            return
        error, variance = accelerator.reduce(self.sums, "mean")
        content_rel = (error / variance.clamp_min(TINY)).clamp(max=MOST)
        self.loss.balance.mul_(torch.exp(RATE * (self.target - content_rel))).clamp_(*LIMITS)
        self.sums.zero_()

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return what resuming needs, as plain data."""
        return {"balance": float(self.loss.balance), "sums": accelerator.reduce(self.sums, "mean").tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, now or before there were sums in it."""
        self.loss.balance.fill_(state["balance"])
        self.sums.copy_(torch.tensor(state.get("sums", [0.0, 0.0])))
