"""Muon: what its updates are, and that weights keep their length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faststyle.training.optimizer import MOMENTUM, Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_singular_values_are_made_equal_and_singular_vectors_kept(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ found @ v.T  # diagonal, where the singular vectors are the same
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), atol=1e-4, rtol=0)


def test_a_step_turns_weights_by_the_rate_and_keeps_their_length() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    optimizer = Muon([weight], lr=0.03)
    optimizer.step()
    turned = weight.detach() - before
    assert float(turned.norm() / before.norm()) == pytest.approx(0.03, rel=0.05)
    assert weight.detach().norm().item() == pytest.approx(float(before.norm()))
    assert (turned * weight.grad).sum() < 0
    torch.testing.assert_close(optimizer.state[weight]["momentum"], weight.grad * (1 - MOMENTUM))


def test_no_gradient_moves_nothing() -> None:
    none, zero = (nn.Parameter(torch.ones(2, 2, 1, 1)) for _ in range(2))
    zero.grad = torch.zeros_like(zero)
    Muon([none, zero], lr=0.1).step()
    for weight in (none, zero):
        torch.testing.assert_close(weight.detach(), torch.ones(2, 2, 1, 1))
