"""The weight of style that is found by itself."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, Terms, WeightedPainting
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.training.balance import EVERY, LIMITS, RATE, Balance

FIRST = torch.tensor([0])  # every photo is for the only painting
SHARE = RATE * EVERY  # of the logarithm of the weight, for one photo a step


@pytest.fixture
def loss(tiny_weights: VGGWeights) -> PerceptualLoss:
    config = LossConfig()
    return PerceptualLoss(
        load_vgg(tiny_weights, deepest_layers(config, "vgg16")), torch.rand(1, 3, 64, 64), config
    )


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def terms(error: float, variance: float = 0.5) -> Terms:
    """Terms of a batch with this content_rel."""
    values = dict.fromkeys(Terms._fields, torch.tensor(0.0))
    values["content_error"] = torch.tensor([error * variance])
    values["content_variance"] = torch.tensor([variance])
    return Terms(**values)


def go(balance: Balance, errors: list[float], accelerator: Accelerator, first: int = 0) -> None:
    for step, error in enumerate(errors, first + 1):
        balance.add(terms(error), FIRST)
        balance.adjust(step, accelerator)


def test_too_much_content_error_lowers_style_and_too_little_raises_it(
    loss: PerceptualLoss, accelerator: Accelerator
) -> None:
    balance = Balance(loss, 0.7, 1.0, 1000)
    go(balance, [0.9] * EVERY, accelerator)
    assert float(loss.balance) == pytest.approx(math.exp(-0.2 * SHARE))
    go(balance, [0.4] * EVERY, accelerator, EVERY)
    assert float(loss.balance) == pytest.approx(math.exp(0.1 * SHARE))


def test_harder_photos_may_have_a_higher_error(
    loss: PerceptualLoss, accelerator: Accelerator
) -> None:
    balance = Balance(loss, 0.7, 1.0, 1000)
    balance.harder = 1.5
    go(balance, [0.9] * EVERY, accelerator)
    assert float(loss.balance) == pytest.approx(math.exp(0.1 * SHARE))


def test_another_target_counts_from_then_on(loss: PerceptualLoss, accelerator: Accelerator) -> None:
    balance = Balance(loss, 0.7, 1.0, 1000)
    balance.aim(0.4, 2 * EVERY)
    go(balance, [0.6] * 2 * EVERY, accelerator)  # settled before the second change
    assert float(loss.balance) == pytest.approx(math.exp(-0.2 * SHARE))


def test_a_flat_photo_weighs_no_more_than_it_holds(
    loss: PerceptualLoss, accelerator: Accelerator
) -> None:
    balance = Balance(loss, 0.7, 1.0, 1000)
    for step in range(1, EVERY + 1):
        balance.add(terms(100.0, 0.001) if step == 4 else terms(0.7), FIRST)
        balance.adjust(step, accelerator)
    assert float(loss.balance) == pytest.approx(
        math.exp(-SHARE * ((9 * 0.35 + 0.1) / 4.501 - 0.7)), rel=1e-5
    )


def test_it_settles(loss: PerceptualLoss, accelerator: Accelerator) -> None:
    balance = Balance(loss, 0.7, 1.0, steps=50)
    go(balance, [0.0] * 50, accelerator)
    # after steps 10 to 40, not 50
    assert float(loss.balance) == pytest.approx(math.exp(4 * 0.7 * SHARE))


def test_it_has_limits(loss: PerceptualLoss, accelerator: Accelerator) -> None:
    go(Balance(loss, 0.7, 1.0, 10**6), [50.0] * 20 * EVERY, accelerator)
    assert float(loss.balance) == pytest.approx(LIMITS[0])


@pytest.mark.parametrize(("strength", "target"), [(0.5, 1 - 0.3**0.5), (1.0, 0.7), (2.0, 0.91)])
def test_strength_asks_for_more_or_less(
    loss: PerceptualLoss, strength: float, target: float
) -> None:
    assert Balance(loss, 0.7, strength, 100).target == pytest.approx(target)


@pytest.mark.parametrize(("target", "strength"), [(0.0, 1.0), (0.7, 0.0), (0.7, math.inf)])
def test_it_may_be_off(
    loss: PerceptualLoss, accelerator: Accelerator, target: float, strength: float
) -> None:
    go(Balance(loss, target, strength, 100), [9.0] * EVERY, accelerator)
    assert float(loss.balance) == 1


@pytest.mark.parametrize("stop", [7, 10, 13])
def test_it_goes_on_where_it_was(
    tiny_weights: VGGWeights, accelerator: Accelerator, stop: int
) -> None:
    errors = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    config = LossConfig()
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    losses = [PerceptualLoss(vgg, torch.rand(1, 3, 64, 64), config) for _ in range(3)]
    go(Balance(losses[0], 0.7, 1.0, 100), errors, accelerator)
    first = Balance(losses[1], 0.7, 1.0, 100)
    go(first, errors[:stop], accelerator)
    second = Balance(losses[2], 0.7, 1.0, 100)
    second.restore(first.state(accelerator), 1)
    go(second, errors[stop:], accelerator, stop)
    assert torch.equal(losses[0].balance, losses[2].balance)


def test_each_painting_has_a_weight_of_its_own(
    tiny_weights: VGGWeights, accelerator: Accelerator
) -> None:
    """What the photos of one painting say changes that of no other."""
    config = LossConfig()
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    styles = [WeightedPainting(torch.rand(1, 3, 64, 64)) for _ in range(3)]
    loss = PerceptualLoss(vgg, styles, config)
    balance = Balance(loss, 0.7, 1.0, 1000)
    batch = terms(0.0)._replace(
        content_error=torch.tensor([0.9, 0.4, 0.9]), content_variance=torch.ones(3)
    )
    for _ in range(EVERY):
        balance.add(batch, torch.tensor([0, 2, 0]))
    balance.adjust(EVERY, accelerator)
    faster = 3 * SHARE  # there are three
    expected = [math.exp(-0.2 * 2 * faster), 1.0, math.exp(0.3 * faster)]
    assert loss.balance.tolist() == pytest.approx(expected)


def test_it_multiplies_the_style_terms_alone(loss: PerceptualLoss) -> None:
    photo = torch.rand(1, 3, 64, 64)
    targets = loss.targets(torch.rand(1, 3, 64, 64))
    before = loss(photo, targets)
    loss.balance.fill_(2.0)
    after = loss(photo, targets)
    torch.testing.assert_close(after.style, 2 * before.style)
    torch.testing.assert_close(after.mean, 2 * before.mean)
    torch.testing.assert_close(after.content, before.content)
    torch.testing.assert_close(after.style_rel, before.style_rel)
    rest = before.content + before.light + before.tv
    torch.testing.assert_close(after.total, rest + 2 * before.style + 2 * before.mean)


def test_a_state_of_two_processes_goes_on_in_one_and_in_two(tiny_weights: VGGWeights) -> None:
    """One process takes the sums of both; each of two takes its half."""
    vgg = load_vgg(tiny_weights, deepest_layers(LossConfig(), "vgg16"))
    loss = PerceptualLoss(vgg, torch.rand(1, 3, 64, 64), LossConfig())
    balance = Balance(loss, 0.7, 1.0, 100)
    balance.sums.copy_(torch.tensor([[1.0, 2.0, 4.0]]))

    class Two:
        def reduce(self, x: torch.Tensor, how: str) -> torch.Tensor:
            return {"sum": 2 * x, "mean": x}[how]

    state = balance.state(Two())  # type: ignore[arg-type]
    balance.restore(state, 1)
    assert balance.sums.tolist() == [[2.0, 4.0, 8.0]]
    balance.restore(state, 2)
    assert balance.sums.tolist() == [[1.0, 2.0, 4.0]]
