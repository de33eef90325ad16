"""A run in two halves: both begin from the start, and the mean of both is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_trainer import stop_after, tiny

from faststyle.errors import Interrupted
from faststyle.networks import build_network
from faststyle.training.halves import Halves
from faststyle.training.recipe import Recipe, learning_rate, part_of
from faststyle.training.train import train_style

pytestmark = pytest.mark.usefixtures("small_run")


def fill(network: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def values(network: torch.nn.Module) -> set[float]:
    return {float(v) for p in network.parameters() for v in p.detach().unique()}


def test_the_second_half_begins_from_the_start_and_the_mean_is_of_both() -> None:
    network = build_network({"name": "johnson", "width": 4, "blocks": 1})
    fill(network, 0.25)
    halves = Halves(network, Accelerator(cpu=True))
    fill(network, 1.0)
    assert halves.mean(network) is network
    halves.turn(network)
    assert values(network) == {0.25}
    halves.turn(network)  # as the second part of a step that accumulates does
    fill(network, 2.0)
    assert values(halves.mean(network)) == {1.5}
    assert values(network) == {2.0}


def test_each_half_has_a_target_and_a_learning_rate_that_falls() -> None:
    recipe = halved("first.safetensors", steps=9, warmup=0.25, learning_rate=1.0)
    parts = [part_of(step, recipe) for step in range(9)]
    assert [part.step for part in parts] == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert [part.steps for part in parts] == [4] * 4 + [5] * 5
    assert [round(part.target, 6) for part in parts] == [0.3] * 4 + [0.6] * 5
    rates = [learning_rate(step, recipe) for step in range(9)]
    assert rates[0] == rates[4] == 1
    assert rates[:4] == sorted(rates[:4], reverse=True)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    # Half a cosine over 3 and over 4 steps, of 4 and 5 in which it would reach zero.
    assert rates[3] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(0.75 * torch.pi)).item()))
    assert rates[8] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(0.8 * torch.pi)).item()))


def halved(init: str, **changes: Any) -> Recipe:
    return tiny(**{"init": init, "content_target": 0.45, "spread": 0.15, "steps": 24, **changes})


@pytest.mark.parametrize("stop", [5, 17])
def test_a_run_in_halves_resumes_to_the_same_bits(
    stop: int, painting: Path, vgg_file: Path
) -> None:
    def train(recipe: Recipe | None = None, **options: Any) -> dict[str, torch.Tensor]:
        result = train_style(painting, recipe, vgg_weights=vgg_file, device="cpu", **options)
        return load_file(result.checkpoint)

    train(tiny(steps=2), name="first")
    recipe = halved("checkpoints/first.safetensors", preview_every=40, state_every=40)
    whole = train(recipe, name="whole")
    with stop_after(stop), pytest.raises(Interrupted):
        train(recipe, name="cut")
    resumed = train(name="cut", resume=True)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    plain = train(halved("checkpoints/first.safetensors", spread=0.0), name="plain")
    assert any(not torch.equal(whole[key], plain[key]) for key in whole)
