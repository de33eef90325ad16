"""Gram matrices of many photos together: the error of their mean, and what each image has in it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from faststyle.perceptual.losses import LossConfig, PerceptualLoss, deepest_layers
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.training.pool import DECAY, GramPool

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def grams(images: int, seed: int) -> torch.Tensor:
    return torch.rand(images, 3, 3, generator=torch.Generator().manual_seed(seed))


TARGET = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 1.0]])
NORM = TARGET.square().sum()


def test_the_first_step_compares_each_image() -> None:
    g = grams(2, 0)
    expected = [np.square(x - TARGET.numpy()).sum() / np.square(TARGET.numpy()).sum() for x in g.numpy()]
    assert GramPool(0.8, CPU).error("a", g, TARGET, NORM).tolist() == pytest.approx(expected)


def test_later_the_error_is_that_of_the_running_mean_and_of_each_image(accelerator: Accelerator) -> None:
    pool, before, now = GramPool(0.75, CPU), grams(4, 1), grams(2, 2).requires_grad_()
    pool.error("a", before, TARGET, NORM)
    pool.step(accelerator)
    errors = pool.error("a", now, TARGET, NORM)
    errors.sum().backward()
    wanted, norm = TARGET.numpy(), float(np.square(TARGET.numpy()).sum())
    mean, images = before.numpy().mean(0), now.detach().numpy()
    of_mean = np.square(mean - wanted).sum() / norm
    own = np.square(images - wanted).sum((1, 2)) / norm
    assert errors.tolist() == pytest.approx(list(0.75 * of_mean + 0.25 * own))
    assert now.grad is not None
    gradient = 2 / norm * (0.75 * (mean - wanted)[None] + 0.25 * (images - wanted))
    np.testing.assert_allclose(now.grad.numpy(), gradient, rtol=1e-5, atol=1e-7)


def test_the_mean_is_plain_at_first_and_forgets_later(accelerator: Accelerator) -> None:
    pool = GramPool(1.0, CPU)
    for value in (1.0, 2.0, 6.0):
        pool.error("a", torch.full((1, 2, 2), value), torch.eye(2), torch.tensor(2.0))
        pool.step(accelerator)
    assert pool.running["a"].tolist() == pytest.approx([3.0] * 4)
    for _ in range(200):
        pool.error("a", torch.full((1, 2, 2), 5.0), torch.eye(2), torch.tensor(2.0))
        pool.step(accelerator)
    before = float(pool.running["a"][0])
    assert before == pytest.approx(5.0, abs=1e-3)
    pool.error("a", torch.full((1, 2, 2), 6.0), torch.eye(2), torch.tensor(2.0))
    pool.step(accelerator)
    assert float(pool.running["a"][0]) == pytest.approx(DECAY * before + (1 - DECAY) * 6.0)


def test_accumulated_batches_count_as_one(accelerator: Accelerator) -> None:
    whole, parts = GramPool(0.9, CPU), GramPool(0.9, CPU)
    for seed in (3, 4):
        g = grams(4, seed)
        at_once = whole.error("a", g, TARGET, NORM)
        apart = torch.cat([parts.error("a", half, TARGET, NORM) for half in g.split(2)])
        torch.testing.assert_close(at_once, apart)
        whole.step(accelerator)
        parts.step(accelerator)
    torch.testing.assert_close(whole.running["a"], parts.running["a"])


def test_a_network_that_bets_low_is_asked_for_more(accelerator: Accelerator) -> None:
    """Textures of a strength that no one can foresee, 0.2 or 1.8 of what was meant, the painting's being 1.

    Squared errors of each image are smallest, in the mean, at 1 / (1 + 0.64) of the painting's; the mean's at 1.
    """
    found = {}
    for share in (0.0, 1.0):
        pool, strength = GramPool(share, CPU), torch.tensor(1.5, requires_grad=True)
        optimizer = torch.optim.SGD([strength], lr=0.01)
        for _ in range(2000):
            g = strength * torch.tensor([0.2, 1.8]).view(2, 1, 1)
            loss = pool.error("a", g, torch.ones(1, 1), torch.ones(())).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pool.step(accelerator)
        found[share] = strength.item()
    assert found == {0.0: pytest.approx(1 / 1.64, abs=1e-3), 1.0: pytest.approx(1.0, abs=1e-3)}


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_only_relative_terms_are_pooled(tiny_weights: VGGWeights, mode: Literal["relative", "absolute"]) -> None:
    config = LossConfig(mode=mode)
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    loss = PerceptualLoss(vgg, torch.rand(1, 3, 64, 64), config)
    pool, equal = GramPool(1.0, CPU), []
    for stylized in (torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64).round()):
        targets = loss.targets(torch.rand(2, 3, 64, 64))
        alone, pooled = loss(stylized, targets), loss(stylized, targets, gram_error=pool.error)
        assert torch.equal(alone.style_rel, pooled.style_rel)  # what is logged is always of each image
        equal.append(torch.allclose(alone.style, pooled.style))
        pool.step()
    assert equal == [True, mode == "absolute"]


def test_what_was_saved_goes_on(accelerator: Accelerator) -> None:
    pool, other = GramPool(0.9, CPU), GramPool(0.9, CPU)
    for step in range(3):
        pool.error("a", grams(2, step), TARGET, NORM)
        pool.step(accelerator)
    other.load_state_dict(pool.state_dict())
    for each in (pool, other):
        each.error("a", grams(2, 9), TARGET, NORM)
        each.step(accelerator)
    assert torch.equal(pool.running["a"], other.running["a"])
