"""Descent on quadratics with known minima, by hand or by scipy, and its record of each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from faststyle.errors import RecipeError, TrainingError
from faststyle.slow.descent import FIRST_MOVE, Descent, Step

SHAPE = (1, 3, 5, 7)
STEPS = {"lbfgs": 40, "adam": 400}
# Around the minimum Adam keeps moving by about its learning rate, 0.02.
CLOSE = {"lbfgs": 1e-4, "adam": 0.01}


def uniform(seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def bowl(
    target: Tensor, curvature: Tensor | float = 1.0
) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """Return curvature times squared distance: its minimum is the image nearest to the target."""
    return lambda x: {
        "total": (curvature * (x - target) ** 2).sum(),
        "half": 0.5 * (x - target).square().sum(),
    }


def go(
    steps: int, start: Tensor, objective: Callable[[Tensor], Mapping[str, Tensor]], *how: Any
) -> list[Step]:
    return list(Descent(start, objective, *how).run(steps))


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_minimum_among_images_is_reached(optimizer: str) -> None:
    target = uniform(0, 0.1, 0.9)
    rows = go(STEPS[optimizer], uniform(1), bowl(target, uniform(2, 0.5, 4)), optimizer)
    torch.testing.assert_close(rows[-1].image, target, rtol=0, atol=CLOSE[optimizer])
    assert rows[-1].terms["total"] < 1e-3 * rows[0].terms["total"]


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_minimum_outside_is_approached_up_to_the_bounds(optimizer: str) -> None:
    """Pixels are independent: the nearest image is the target with each pixel put into [0, 1]."""
    target = uniform(0, -0.6, 1.6)
    rows = go(STEPS[optimizer], torch.full(SHAPE, 0.5), bowl(target, uniform(2, 0.5, 4)), optimizer)
    expected = torch.from_numpy(np.clip(target.numpy(), 0, 1))
    # Some pixels of the target are outside, and some are not.
    assert 0.2 < float((expected != target).float().mean()) < 0.8
    torch.testing.assert_close(rows[-1].image, expected, rtol=0, atol=CLOSE[optimizer])
    assert all(float(row.image.min()) >= 0 and float(row.image.max()) <= 1 for row in rows)


@pytest.mark.parametrize("seed", range(4))
def test_lbfgs_finds_the_minimum_between_bounds_that_scipy_finds(seed: int) -> None:
    """Pixels depend on each other here: putting each one into [0, 1] would not be enough."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(SHAPE))
    mixed = rng.normal(size=(n, n)) / 20
    matrix = mixed @ mixed.T + np.diag(rng.uniform(0.1, 1, n))
    target = rng.uniform(-0.6, 1.6, n)

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        return float((v - target) @ matrix @ (v - target)), 2 * matrix @ (v - target)

    bounded = minimize(value, np.full(n, 0.5), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * n)
    a = torch.tensor(matrix, dtype=torch.float32)
    t = torch.tensor(target, dtype=torch.float32)
    rows = go(
        60,
        torch.full(SHAPE, 0.5),
        lambda x: {"total": (x.reshape(-1) - t) @ a @ (x.reshape(-1) - t)},
        "lbfgs",
    )
    assert rows[-1].terms["total"] == pytest.approx(bounded.fun, rel=1e-3)
    clipped = value(np.clip(target, 0, 1))[0]
    assert bounded.fun < 0.97 * clipped


@pytest.mark.parametrize("optimizer", STEPS)
def test_each_row_has_the_terms_of_its_own_image(optimizer: str) -> None:
    target = uniform(0)
    start = uniform(1)
    rows = go(6, start, bowl(target), optimizer)
    assert [row.step for row in rows] == list(range(7))
    assert torch.equal(rows[0].image, start)
    for row in rows:
        total = ((row.image.double().numpy() - target.double().numpy()) ** 2).sum()
        assert row.terms == pytest.approx({"total": total, "half": total / 2}, rel=1e-4, abs=1e-10)
    totals = [row.terms["total"] for row in rows]
    assert totals[-1] < totals[1] < totals[0]


def test_the_start_is_not_changed_and_rows_do_not_share_memory() -> None:
    start = uniform(1)
    copy = uniform(1)
    rows = go(3, start, bowl(uniform(0)), "adam")
    assert torch.equal(start, copy)
    assert len({row.image.data_ptr() for row in rows}) == 4
    assert len({row.image.numpy().tobytes() for row in rows}) == 4
    assert not any(row.image.requires_grad for row in rows)


def test_a_gradient_of_zero_leaves_the_image_as_it_is() -> None:
    start = uniform(1)
    for optimizer in STEPS:
        assert all(torch.equal(row.image, start) for row in go(3, start, bowl(start), optimizer))


def test_seconds_start_at_zero_and_count_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by a second at each reading: the caller's own readings do not count."""
    now = iter(range(100))
    monkeypatch.setattr("faststyle.slow.descent.time.perf_counter", lambda: float(next(now)))
    seconds = []
    for row in Descent(uniform(1), bowl(uniform(0))).run(3):
        seconds.append(row.seconds)
        next(now)
    assert seconds == [0, 1, 2, 3]


def test_adam_takes_the_steps_of_the_paper() -> None:
    """Kingma and Ba (2014), algorithm 1, in numpy."""
    start = uniform(1)
    target = uniform(0)
    rate = 0.02
    b1, b2 = 0.9, 0.99
    rows = go(5, start, bowl(target), "adam")
    x = start.double().numpy()
    m = np.zeros(SHAPE)
    v = np.zeros(SHAPE)
    for t in range(1, 6):
        g = 2 * (x - target.double().numpy())
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        x = np.clip(x - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8), 0, 1)
        np.testing.assert_allclose(rows[t].image.numpy(), x, atol=1e-5)


@pytest.mark.parametrize("optimizer", STEPS)
def test_the_average_is_the_mean_of_the_images_by_age(optimizer: str) -> None:
    """Bias-corrected: weights of decay^age, divided by their sum, over the images after a step."""
    decay = 0.8
    steps = 7
    plain = go(steps, uniform(1), bowl(uniform(0)), optimizer, None, 0.0)
    averaged = go(steps, uniform(1), bowl(uniform(0)), optimizer, None, decay)
    assert torch.equal(averaged[0].image, plain[0].image)
    for k in range(1, steps + 1):
        weights = decay ** np.arange(k)[::-1]
        images = np.stack([row.image.double().numpy() for row in plain[1 : k + 1]])
        np.testing.assert_allclose(
            averaged[k].image.numpy(),
            np.average(images, axis=0, weights=weights),
            rtol=1e-5,
            atol=1e-6,
        )
    last = float((averaged[-1].image.double() - uniform(0).double()).square().sum())
    assert averaged[-1].terms["total"] == pytest.approx(last, rel=1e-4)


def test_the_average_takes_noise_out() -> None:
    """With noise in each gradient the mean ends nearer to the minimum than the last image."""
    target = uniform(0, 0.3, 0.7)
    generator = torch.Generator().manual_seed(5)

    def noisy(x: Tensor) -> Mapping[str, Tensor]:
        return {
            "total": ((x - target) ** 2).sum() + (torch.randn(SHAPE, generator=generator) * x).sum()
        }

    plain, averaged = (
        go(300, uniform(1), noisy, "adam", 0.05, decay)[-1].image for decay in (0.0, 0.98)
    )
    errors = [float((image - target).square().mean()) for image in (plain, averaged)]
    assert errors[1] < 0.5 * errors[0]


def test_moments_are_resized_to_another_size() -> None:
    small = Descent(uniform(1), bowl(uniform(0)), "adam")
    for _ in small.run(4):
        pass
    found = small.moments()
    assert found is not None
    first, second, count = found
    assert (first.shape, second.shape, count) == (SHAPE, SHAPE, 4)
    # A constant stays the same, and the count of steps goes on at the new size.
    constant = (torch.full_like(first, -0.25), torch.full_like(second, 0.5), count)
    large = Descent(torch.zeros(1, 3, 9, 12), lambda x: {"total": 0 * x.sum()}, "adam")
    large.warm_start(constant)
    again = large.moments()
    assert again is not None
    assert (again[0].shape, again[1].shape, again[2]) == ((1, 3, 9, 12), (1, 3, 9, 12), 4)
    torch.testing.assert_close(again[0], torch.full((1, 3, 9, 12), -0.25))
    torch.testing.assert_close(again[1], torch.full((1, 3, 9, 12), 0.5))
    for _ in large.run(1):
        pass
    # Its gradient is 0: by hand, from algorithm 1 of Kingma and Ba (2014) at t = 5.
    m = 0.9 * -0.25 / (1 - 0.9**5)
    v = 0.99 * 0.5 / (1 - 0.99**5)
    expected = 0.02 * -m / np.sqrt(v)
    torch.testing.assert_close(large.pixels.detach(), torch.full((1, 3, 9, 12), float(expected)))
    assert (large.moments() or (0, 0, 0))[2] == 5


def test_resized_second_moments_are_never_negative() -> None:
    """One bright pixel in the dark: bicubic weights would undershoot around it."""
    second = torch.zeros(SHAPE)
    second[..., 2, 3] = 1.0
    large = Descent(torch.zeros(1, 3, 20, 28), bowl(torch.zeros(())), "adam")
    large.warm_start((torch.zeros(SHAPE), second, 3))
    found = large.moments()
    assert found is not None
    assert float(found[1].min()) >= 0
    assert float(found[1].max()) > 0.5


def test_lbfgs_has_no_moments_and_starts_anew() -> None:
    descent = Descent(uniform(1), bowl(uniform(0)), "lbfgs")
    rows = list(descent.run(3))
    assert descent.moments() is None
    cold = Descent(uniform(1), bowl(uniform(0)), "lbfgs")
    cold.warm_start(None)
    assert all(torch.equal(a.image, b.image) for a, b in zip(rows, cold.run(3), strict=True))


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_the_first_step_of_lbfgs_has_a_known_length(rate: float) -> None:
    """It follows the gradient, by a mean move of a pixel that does not depend on its scale."""
    start = uniform(1, 0.4, 0.6)
    target = uniform(0)
    gradient = (start - target).double().numpy()
    for scale in (10.0, 1000.0):
        move = go(1, start, bowl(target, scale), "lbfgs", rate)[1].image - start
        expected = -gradient / np.abs(gradient).mean() * FIRST_MOVE * rate
        np.testing.assert_allclose(move.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_a_learning_rate_is_used() -> None:
    slow, fast = (
        go(1, uniform(1, 0.4, 0.6), bowl(uniform(0)), "adam", rate)[1].image
        for rate in (0.01, 0.03)
    )
    start = uniform(1, 0.4, 0.6)
    # The first step of Adam is the learning rate in every pixel, whatever its gradient.
    torch.testing.assert_close((slow - start).abs(), torch.full(SHAPE, 0.01), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close((fast - start).abs(), torch.full(SHAPE, 0.03), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("bad", "seen"), [(0, []), (3, [0, 1, 2]), (4, [0, 1, 2, 3])])
def test_a_term_that_is_not_finite_is_an_error_at_its_step(
    value: float, bad: int, seen: list[int]
) -> None:
    calls = iter(range(10))

    def objective(x: Tensor) -> Mapping[str, Tensor]:
        return {"total": x.sum(), "odd": torch.tensor(value if next(calls) == bad else 1.0)}

    steps: list[int] = []
    with pytest.raises(TrainingError, match=f"step {100 + bad}: the odd term is not finite"):
        steps.extend(step.step for step in Descent(uniform(1), objective).run(4, first=100))
    assert steps == seen


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (("sgd",), "unknown optimizer 'sgd'. Allowed: adam, lbfgs."),
        (("adams",), "Did you mean 'adam'"),
        (("adam", 0.0), "learning rate must be above 0, got 0.0"),
        (("lbfgs", -1.0), "learning rate must be above 0"),
        (("adam", float("nan")), "learning rate must be above 0"),
        (("adam", float("inf")), "learning rate must be above 0"),
        (("adam", None, 1.0), "below 1, got 1.0"),
        (("adam", None, -0.1), "at least 0"),
        (("adam", None, float("nan")), "at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(how: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Descent(uniform(0), bowl(uniform(0)), *how)
