"""Guards against runs that went wrong: values that are not finite, and outputs that are dead."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from faststyle.perceptual.losses import Terms

DEAD_SPREAD = 2 / 255  # standard deviation over an image below which it is constant
BLACK_PEAK = 8 / 255  # brightest value below which a batch is black


class FiniteGuard:
    """Keeps values that are not finite from the weights, and remembers step and term of the first.

    All of it happens on the device. Looking at a value makes the host wait: that is done at logs
    and before a state is saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.batches = torch.zeros((), device=device)
        # batch, then 1 for each bad value
        self.record = torch.full((len(Terms._fields) + 2,), -1.0, device=device)

    def check(self, values: Tensor, network: nn.Module) -> None:
        """Zero all gradients from the first value on that is not finite.

        `values` are the terms, and the norm of the gradient.
        """
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


def dead_output(stylized: Tensor, photos: Tensor) -> str | None:
    """Return "constant" or "black" for outputs, (B, 3, H, W), without a picture in them, else None.

    Photos without contrast say nothing about the network.
    """
    spread = stylized.float().flatten(1).std(1).max()
    of_photos = photos.flatten(1).std(1).max()
    readings = torch.stack([spread, of_photos, stylized.float().max()]).tolist()
    if readings[1] < DEAD_SPREAD:
        return None
    if readings[2] < BLACK_PEAK:
        return "black"
    return "constant" if readings[0] < DEAD_SPREAD else None
