"""Keeping what is not finite from the weights, without making the host wait for the device."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from faststyle.perceptual.losses import Terms


class FiniteGuard:
    """Keeps what is not finite from the weights, on the device, and remembers step and term of the
    first.

    Looking at a value makes the host wait for the device: that is done at logs and before a state
    is saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.batches = torch.zeros((), device=device)
        # batch, then 1 for each bad value
        self.record = torch.full((len(Terms._fields) + 2,), -1.0, device=device)

    def check(self, values: Tensor, network: nn.Module) -> None:
        """Zero all gradients from the first value that is not finite on; `values` are the terms and the norm."""
        bad = ~torch.isfinite(values)
        fresh = bad.any() & (self.record[0] < 0)
        self.record = torch.where(fresh, torch.cat([self.batches[None], bad.float()]), self.record)
        self.batches = self.batches + 1
        good = self.record[0] < 0
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.where(good, parameter.grad, torch.zeros_like(parameter.grad))

    def first_bad(self, accelerator: Accelerator) -> tuple[int, str] | None:
        """Return (batch number of this process, name of the value), or None."""
        for record in accelerator.gather(self.record[None]).tolist():
            if record[0] >= 0:
                names = [*(f"{t} term" for t in Terms._fields), "gradient"]
                named = [n for n, flag in zip(names, record[1:], strict=True) if flag]
                return int(record[0]) + 1, next((n for n in named if n != "total term"), named[0])
        return None
