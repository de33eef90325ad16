"""Muon, for the convolutions: in a third of Adam's steps networks get as far (docs/log/).

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
# Of the Newton-Schulz iteration: five times this polynomial brings singular values close to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum with all singular values of an update made equal; weights (O, I, k, k) are O rows.

    `lr` is the length of an update, as a share of that of the weights. Differs from the source:
    weights keep their length. That is free, for a normalisation follows each convolution, and takes
    the length away; so the rate means the same after ten steps and after a million.
    `torch.optim.Muon` takes matrices only.
    """

    def __init__(self, weights: Iterable[Tensor], lr: float) -> None:
        super().__init__(list(weights), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step along the gradients that there are."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._turn(weight, weight.grad, group["lr"])

    def _turn(self, weight: Tensor, grad: Tensor, rate: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
        direction = orthogonal(grad.lerp(momentum, MOMENTUM).flatten(1)).view(weight.shape)
        length = weight.norm()
        weight.sub_(direction * (rate * length / direction.norm().clamp_min(TINY)))
        weight.mul_(length / weight.norm().clamp_min(TINY))


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix, (M, N), with the same singular vectors, and singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(TINY)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
