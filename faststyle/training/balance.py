"""The weight of style against content, found while training: as much as a content error allows.

After `SETTLED` of the steps the weight stays. It is stored with the objective, which is then a
fixed function again.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.moments import TINY
from faststyle.training.accelerators import run_program

EVERY = 10  # steps between changes: the content error of a few photos is mostly that of the photos
RATE = 0.025  # of the logarithm of the weight, for each photo, for a content error that is off by 1
FASTER = 8  # times RATE at most: each of many paintings sees few of the photos
MOST = 2.0  # content_rel counts as this at most: that of flat photos has no bound
LIMITS = (1 / 64, 16.0)  # of the weight
# The content_rel of few photos, augmented strongly, over that of many as they are. That of one
# network was 0.46 on the sample and 0.39 on 1,291 photos.
OF_FEW = 1.15
SETTLED = 0.85  # share of the steps after which the weight stays


class Balance:
    """Raises or lowers `loss.balance` until content_rel is at its target: dual ascent.

    There is a weight for each painting of the loss. Errors and variances are summed up between
    changes: few photos are flat, and those have no part in it. `target` is the content_rel wanted
    at a strength of 1; a strength s asks for 1 - (1 - target)^s, so that 0 keeps all of the photo
    and large values keep nothing. A target of 0 leaves the weight alone; so does a strength of 0 or
    infinity. `harder` is how much higher than usual the content_rel of these photos is.
    """

    def __init__(self, loss: PerceptualLoss, target: float, strength: float, steps: int) -> None:
        self.loss = loss
        self.strength = strength
        self.harder = 1.0
        self.aim(target, steps)
        self.rate = RATE * min(len(loss.balance), FASTER)
        # Of each painting since the last change: errors, variances, photos.
        self.sums = torch.zeros(len(loss.balance), 3, device=loss.balance.device)

    def aim(self, target: float, steps: int) -> None:
        """Want this content_rel from now on, in a part of a run of so many steps."""
        self.on = target > 0 and 0 < self.strength < float("inf")
        self.target = 1 - (1 - target) ** self.strength if self.on else 0.0
        self.last = SETTLED * steps

    def add(self, terms: Terms, which: Tensor) -> None:
        """Count the content errors of a batch; `which`, (B,), is each photo's painting."""
        if self.on:
            error = terms.content_error.detach()
            variance = terms.content_variance.detach()
            counted = torch.stack([error, variance, torch.ones_like(error)], 1)
            self.sums.index_add_(0, which, counted)

    def adjust(self, step: int, accelerator: Accelerator) -> None:
        """Change the weights, if it is due after step `step` of a part of the run.

        Nothing waits for the device.
        """
        if not self.on or step % EVERY or step > self.last:
            return
        error, variance, photos = accelerator.reduce(self.sums, "sum").unbind(1)
        content_rel = (error / variance.clamp_min(TINY) / self.harder).clamp(max=MOST)
        change = torch.exp(self.rate * photos * (self.target - content_rel))
        self.loss.balance.mul_(change).clamp_(*LIMITS)
        self.sums.zero_()
        run_program(self.sums.device)  # one of its own, so that all steps are the same program

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return the weights, and the sums since the last change, as plain data."""
        sums = accelerator.reduce(self.sums, "sum")
        return {"balance": self.loss.balance.tolist(), "sums": sums.tolist()}

    def restore(self, state: dict[str, Any], processes: int) -> None:
        """Go on from what `state` returned, each of so many processes with its share of the sums.

        They may be other processes than those that saved it.
        """
        self.loss.balance.copy_(torch.tensor(state["balance"]))
        self.sums.copy_(torch.tensor(state["sums"]) / processes)
