"""The race: two trainers on the same photos, each with its own clock, measured by one objective."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from faststyle.bench import race as module
from faststyle.bench.race import Runner, bench_race
from faststyle.perceptual.weights import VGGWeights
from faststyle.training import held_out
from faststyle.training.recipe import Recipe, recipe_from_dict
from faststyle.training.start import Origin

RECIPE: Recipe = recipe_from_dict(
    {
        "steps": 100,
        "learning_rate": 3e-4,
        "batch_size": 1,
        "image_size": 40,
        "shift": 8,
        "painting_size": 48,
        "network": {"width": 4, "blocks": 1},
        "loss": {
            "content_layers": {"relu2_1": 1.0},
            "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
        },
    }
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFERENCE_SIZE", 48)
    monkeypatch.setattr(held_out, "PREVIEW_SIZE", 64)
    monkeypatch.setattr(held_out, "SCORE_SIZE", 48)


def test_a_race_hangs_together(
    painting: Path, tiny_weights: VGGWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn has ten steps: their number must not depend on the load of the machine."""

    def run_for(runner: Runner, seconds: float) -> None:
        for _ in range(10):
            runner.step(next(runner.photos)["photo"].float().div(255))
        runner.steps = runner.steps + 10
        runner.seconds = runner.seconds + seconds

    monkeypatch.setattr(Runner, "run_for", run_for)
    monkeypatch.setattr(module, "start_network", lambda *_: Origin(note="it starts as another"))
    lines: list[str] = []
    race = bench_race(
        painting, RECIPE, tiny_weights, seconds=0.4, times=2, turn=0.2, see=lines.append
    )
    assert race.target == race.ours_curve[-1][1] < race.ours_curve[0][1] * 1.05
    assert race.ours == next(s for s, total in race.ours_curve if total <= race.target)
    if race.reference is None:
        assert race.ratio == pytest.approx(race.reference_curve[-1][0] / race.ours)
        assert (
            race.reference_curve[-1][0] >= 2 * race.ours_curve[-1][0]
            or race.reference_curve[-1][1] <= race.target
        )
    else:
        assert race.ratio == race.reference / race.ours
    assert lines.pop(0) == "note: it starts as another"
    assert len(lines) == len(race.ours_curve) + len(race.reference_curve)
    assert set(json.loads(json.dumps(asdict(race)))) >= {"target", "ours", "reference", "ratio"}


def test_a_reference_that_is_better_is_said_to_be(
    painting: Path, tiny_weights: VGGWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The totals are given: ours reaches 2.0 in its second turn, the reference in its first."""
    totals = {"ours": iter([3.0, 2.0]), "reference": iter([1.5, 1.0])}

    def measure(runner: Runner, *_: Any) -> None:
        runner.curve.append((runner.seconds, next(totals[runner.name])))

    monkeypatch.setattr(module, "_measure", measure)
    monkeypatch.setattr(
        Runner, "run_for", lambda self, s: setattr(self, "seconds", self.seconds + s)
    )
    race = bench_race(painting, RECIPE, tiny_weights, seconds=2, turn=1)
    assert (race.target, race.ours, race.reference, race.ratio) == (2.0, 2, 1, 0.5)


def test_a_reference_that_never_gets_there_gives_a_lower_bound(
    painting: Path, tiny_weights: VGGWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(runner: Runner, *_: Any) -> None:
        runner.curve.append((runner.seconds, 1.0 if runner.name == "ours" else 9.0))

    monkeypatch.setattr(module, "_measure", measure)
    monkeypatch.setattr(
        Runner, "run_for", lambda self, s: setattr(self, "seconds", self.seconds + s)
    )
    race = bench_race(painting, RECIPE, tiny_weights, seconds=1, turn=1, times=7)
    assert (race.ours, race.reference, race.ratio) == (1, None, 7)


def test_the_clock_of_a_runner_counts_its_steps_only() -> None:
    seen: list[torch.Size] = []
    photos = iter([{"photo": torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)}] * 5)
    runner = Runner("one", torch.nn.Identity(), lambda x: seen.append(x.shape), photos)
    runner.run_for(1e-9)
    assert seen == [torch.Size([2, 3, 8, 8])]
    assert runner.steps == 1
    assert 0 < runner.seconds < 1
