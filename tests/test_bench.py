"""The benchmarks run, and their figures hang together. No speed is tested: machines differ."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from faststyle.bench import training as bench
from faststyle.bench.slow import bench_slow
from faststyle.bench.training import (
    PAPER_NETWORK,
    SAME_LAYERS,
    TrainBench,
    _flops,
    _step,
    bench_train,
    reference_step,
)
from faststyle.cli import app
from faststyle.networks import build_network
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.weights import VGGWeights
from faststyle.training.recipe import Recipe

SMALL = {"name": "johnson", "width": 4, "blocks": 1}
LAYERS = LossConfig(content_layers={"relu4_2": 1.0}, style_layers={"relu1_1": 1.0, "relu5_1": 1.0})
RECIPE = Recipe(batch_size=2, image_size=48, painting_size=48, network=SMALL, loss=LAYERS)


@pytest.fixture(scope="module")
def result(tiny_weights: VGGWeights) -> TrainBench:
    with pytest.MonkeyPatch.context() as patch:
        # the slow tier measures it
        patch.setattr(bench, "_peak_in_process", lambda side, *_: 100 + len(side))
        return bench_train(RECIPE, tiny_weights, rounds=2, network=SMALL)


def test_its_figures_hang_together(result: TrainBench) -> None:
    assert min(result.reference, result.ours, result.recipe, result.ratio, result.ratio_default) > 0
    assert result.utilisation == pytest.approx(
        result.flops_per_image * result.ours / result.peak_flops
    )
    assert result.utilisation < 1
    assert result.network == SMALL
    assert result.reference_layers == "content relu2_2; style relu1_2 relu2_2 relu3_3 relu4_3"
    memory = (result.peak_rss_mb, result.recipe_peak_rss_mb, result.reference_peak_rss_mb)
    assert memory == (100 + len("ours"), 100 + len("recipe"), 100 + len("reference"))


def test_it_is_plain_data(result: TrainBench) -> None:
    keys = {
        "ours",
        "reference",
        "ratio",
        "ratio_default",
        "utilisation",
        "peak_rss_mb",
        "reference_peak_rss_mb",
    }
    assert keys <= set(json.loads(json.dumps(asdict(result))))


def test_the_reference_computes_what_it_says(tiny_weights: VGGWeights) -> None:
    """Torch counts as many operations as a sum by hand over the convolutions to relu4_3."""
    counted = _flops(_step("reference", RECIPE, tiny_weights, SMALL)) / RECIPE.batch_size
    channels = [3, 4, 4, 8, 8, 16, 16, 16, 32, 32, 32]  # a sixteenth of those of VGG-16
    sides = [48, 48, 24, 24, 12, 12, 12, 6, 6, 6]
    forward = sum(
        2 * 9 * a * b * s * s for a, b, s in zip(channels, channels[1:], sides, strict=False)
    )
    grams = sum(2 * c * c * s * s for c, s in ((4, 48), (8, 24), (16, 12), (32, 6)))
    vgg = 3 * forward + 3 * grams  # photo, output, and the way back to the output's pixels
    # the network adds a few convolutions to it
    assert vgg < counted < vgg + 3 * 2 * 48 * 48 * 81 * (3 * 4) * 8


def test_ours_with_the_references_layers_computes_less(tiny_weights: VGGWeights) -> None:
    """Ours runs VGG on the photo to relu2_2 only."""
    ours, reference = (
        _flops(_step(side, RECIPE, tiny_weights, SMALL)) for side in ("ours", "reference")
    )
    assert 0.3 * reference < ours < reference


def test_the_recipes_side_is_the_recipes(tiny_weights: VGGWeights) -> None:
    shallow = replace(
        RECIPE, loss=LossConfig(content_layers={"relu1_1": 1.0}, style_layers={"relu1_1": 1.0})
    )
    assert _flops(_step("recipe", shallow, tiny_weights, SMALL)) < _flops(
        _step("recipe", RECIPE, tiny_weights, SMALL)
    )


def test_the_papers_network_has_the_papers_width() -> None:
    assert PAPER_NETWORK == {"name": "johnson", "width": 32}
    assert SAME_LAYERS.layers("vgg16")[1].keys() == {"relu1_2", "relu2_2", "relu3_3", "relu4_3"}


def test_the_reference_learns_the_same_from_features_of_another_range(
    tiny_weights: VGGWeights,
) -> None:
    """Inputs and biases four times as large make all features so. The steps stay the same."""
    larger = replace(
        tiny_weights,
        std=tuple(value / 4 for value in tiny_weights.std),
        tensors={k: v * 4 if k.endswith("bias") else v for k, v in tiny_weights.tensors.items()},
    )
    photos = torch.rand(2, 3, 32, 32)
    painting = torch.rand(1, 3, 40, 40)
    after = []
    for weights in (tiny_weights, larger):
        torch.manual_seed(0)
        network = build_network(SMALL)
        step = reference_step(network, painting, weights)
        for _ in range(3):
            step(photos)
        after.append(torch.nn.utils.parameters_to_vector(network.parameters()))
    torch.testing.assert_close(after[1], after[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_slow_path_is_measured_in_processes_of_their_own(tiny_weights: VGGWeights) -> None:
    rows = bench_slow(tiny_weights, 32, ["adam"])
    assert [(r.optimizer, r.size, r.steps) for r in rows] == [("adam", 32, 5)]
    assert rows[0].seconds > 0


@pytest.mark.slow
def test_the_command_prints_json(vgg_file: Path) -> None:
    options = [
        "--vgg-weights",
        str(vgg_file),
        "--recipe",
        "smoke",
        "--image-size",
        "64",
        "--rounds",
        "1",
    ]
    threads = torch.get_num_threads()
    done = CliRunner().invoke(app, ["bench", "train", *options, "--batch-size", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["batch_size"] == 1
    for key in ("peak_rss_mb", "recipe_peak_rss_mb", "reference_peak_rss_mb"):
        assert 100 < found[key] < 10_000
    assert torch.get_num_threads() == threads


def test_an_unknown_network_is_one_line(vgg_file: Path) -> None:
    done = CliRunner().invoke(
        app, ["bench", "train", "--vgg-weights", str(vgg_file), "--network", "jonson"]
    )
    assert done.exit_code == 1
    assert "unknown network 'jonson'. Did you mean 'johnson'?" in done.stderr
