"""Refining: time, the objective, sizes, files of paintings, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import draw
from torch import Tensor
from typer.testing import CliRunner

from faststyle.checkpoint import About, find_checkpoint, save_checkpoint
from faststyle.cli import app
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, ImageError, TrainingError
from faststyle.files import sha256
from faststyle.images import Picture, read_image
from faststyle.networks import build_network
from faststyle.networks.johnson import Johnson
from faststyle.networks.layers import InstanceNorm
from faststyle.networks.network import StyleNetwork, with_rim, without_rim
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.sizes import fit_bounded
from faststyle.stylize import refine as module
from faststyle.stylize.refine import Refined, Refiner
from faststyle.stylize.stylizer import Stylizer
from faststyle.training.objective import recipe_of
from faststyle.training.recipe import Recipe

NETWORK = {"name": "johnson", "width": 4, "blocks": 1}
LOSS = LossConfig(
    content_layers={"relu2_2": 1.0},
    style_layers={"relu1_1": 1.0, "relu3_1": 1.0, "relu2_1@1/2": 1.0},
    balance=0.5,
)
RECIPE = Recipe(painting_size=64, network=NETWORK, loss=LOSS, adversarial_weight=0.3)
CPU = EngineOptions(device="cpu", precision="float32")


def save_network(path: Path, painting: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    about = About(
        NETWORK,
        {"file": painting.name, "sha256": sha256(painting)},
        {"id": "vgg16-tiny"},
        "none",
        RECIPE.to_dict(),
    )
    save_checkpoint(path, Johnson(4, 1), replace(about, **changes))
    return path


@pytest.fixture
def photo() -> Tensor:
    return read_image(draw(3, 72, 90))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later each time that it is looked at."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def refiner(weights: VGGWeights, painting: Path, seconds: float = 4, **settings: Any) -> Refiner:
    torch.manual_seed(0)
    return Refiner(
        Johnson(4, 1).eval(), RECIPE, read_image(painting), weights, seconds, CPU, **settings
    )


@pytest.mark.usefixtures("clock")
def test_the_objective_of_training_goes_down_from_the_network_s_picture(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor
) -> None:
    one = refiner(tiny_weights, painting, 60)
    before = [parameter.clone() for parameter in one.network.parameters()]
    found = one(photo)
    vgg = load_vgg(tiny_weights, ["relu3_1"])
    loss = PerceptualLoss(vgg, fit_bounded(read_image(painting), 64), LOSS)

    def total(network: StyleNetwork) -> float:
        # A picture that is learned from may leave [0, 1] a little; one that is painted may not.
        around = with_rim(photo, network.rim, network.multiple)
        with torch.no_grad():
            painted = without_rim(network.in_range(network.paint(around)), photo, network.rim)
            return float(loss(painted, loss.targets(photo)).total)

    assert found.first["total"] == pytest.approx(total(one.network), rel=1e-4)
    assert found.last["total"] == pytest.approx(total(found.network), rel=1e-4)
    assert found.last["total"] < 0.8 * found.first["total"]
    # The next photo begins with the same network, and whoever paints needs no gradients.
    assert all(map(torch.equal, before, one.network.parameters()))
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    assert one(photo).first == found.first


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("train", ["all", "norms", "auto"])
def test_scales_and_shifts_learn_alone(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor, train: str
) -> None:
    one = Refiner(
        Johnson(4, 1).eval(),
        replace(RECIPE, train=train),
        read_image(painting),
        tiny_weights,
        3,
        CPU,
    )
    norms = [m for m in one.network.modules() if isinstance(m, InstanceNorm)]
    may = {id(parameter) for norm in norms for parameter in norm.parameters()}
    found = one(photo)
    assert found.last["total"] < found.first["total"]
    for before, after in zip(one.network.parameters(), found.network.parameters(), strict=True):
        assert torch.equal(before, after) == (id(before) not in may)


@pytest.mark.usefixtures("clock")
def test_it_ends_where_one_more_step_would_take_too_long(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor
) -> None:
    told: list[tuple[float, float]] = []
    found = refiner(tiny_weights, painting, 4.5, progress=lambda *done: told.append(done))(photo)
    # The clock began at 0; the start was seen at 1, and step 3 at 4.
    assert (found.steps, found.seconds) == (3, 4.0)
    assert told == [(1, 4.5), (2, 4.5), (3, 4.5), (4, 4.5)]
    words = f"refined in 4.0 s, 3 steps: objective {found.first['total']:.3f} to "
    assert found.describe() == f"{words}{found.last['total']:.3f}"
    # However short the time is, there is one step.
    assert refiner(tiny_weights, painting, 0.1)(photo).steps == 1


@pytest.mark.parametrize("last", [2.0, float("nan")])
def test_the_network_is_kept_where_nothing_is_better(
    tiny_weights: VGGWeights,
    painting: Path,
    photo: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    clock: None,
    last: float,
) -> None:
    one = refiner(tiny_weights, painting, 3)
    totals = iter((1.0, 1.5, last))
    evaluate = Refiner._objective

    def worse(self: Refiner, network: StyleNetwork, photo: Tensor) -> Any:
        real = evaluate(self, network, photo)
        return lambda: (terms := real())._replace(total=terms.total * 0 + next(totals))

    monkeypatch.setattr(Refiner, "_objective", worse)
    found = one(photo)
    assert all(map(torch.equal, one.network.parameters(), found.network.parameters()))
    assert found.describe() == (
        f"not refined: in {found.seconds:.1f} s, 2 steps, the objective did not go below the 1.000 "
        "of the network's picture"
    )


def test_an_objective_that_is_not_finite_at_once_is_an_error(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor
) -> None:
    one = refiner(tiny_weights, painting)
    next(one.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="objective of the network's picture is not finite"):
        one(photo)


@pytest.mark.usefixtures("clock")
def test_a_large_photo_is_learned_from_at_a_smaller_size(
    tiny_weights: VGGWeights,
    painting: Path,
    photo: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []
    targets = PerceptualLoss.targets

    def watched(self: PerceptualLoss, photo: Tensor) -> Any:
        seen.append(tuple(photo.shape[-2:]))
        return targets(self, photo)

    monkeypatch.setattr(PerceptualLoss, "targets", watched)
    monkeypatch.setattr(module, "LARGEST_AREA", 36 * 45)
    found = refiner(tiny_weights, painting, 3)(photo)
    assert seen == [(36, 45)]
    assert found.last["total"] < found.first["total"]


def test_too_small_a_photo_is_refused(tiny_weights: VGGWeights, painting: Path) -> None:
    with pytest.raises(ImageError, match="16x40 pixels are too few for `refine`, which needs 32"):
        refiner(tiny_weights, painting)(torch.rand(1, 3, 16, 40))


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_seconds_must_be_above_0(tiny_weights: VGGWeights, painting: Path, seconds: float) -> None:
    with pytest.raises(ImageError, match="`refine` takes seconds, more than 0, got"):
        refiner(tiny_weights, painting, seconds)


class Painter(Johnson):
    """A network that paints all grey."""

    def paint(self, photo: Tensor, mix: Tensor | None = None) -> Tensor:
        return torch.zeros_like(photo)


class Grey:
    """A refiner whose networks paint grey pictures; it notes the sizes of photos."""

    options = CPU

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, photo: Tensor) -> Refined:
        self.sizes.append(tuple(photo.shape[-2:]))
        return Refined(Painter(4, 1), 1, 1.0, {"total": 1.0}, {"total": 0.5})


def test_the_refined_network_paints_as_any_other(tmp_path: Path, painting: Path) -> None:
    stylizer = Stylizer.load(save_network(tmp_path / "dots.safetensors", painting), device="cpu")
    grey = Grey()
    stylizer.refiner = grey  # type: ignore[assignment]
    photo = read_image(draw(3, 64, 80))
    torch.testing.assert_close(stylizer(photo), torch.full_like(photo, 0.5))
    torch.testing.assert_close(stylizer(photo, mix=0.25), 0.75 * photo + 0.125)
    kept = stylizer(photo, keep_colors=True)
    # As light as the refined picture everywhere, in hues of the photo.
    assert float(kept.std()) > 0.05
    stylizer(photo, stroke_size=2)
    assert grey.sizes == [(64, 80)] * 3 + [(32, 40)]
    several = stylizer.stylize_batch([Picture(photo), Picture(photo)])
    assert all(float(one.rgb.std()) < 1e-6 for one in several)
    assert several[0].notes == ("refined in 1.0 s, 1 step: objective 1.000 to 0.500",)
    stylizer.tile = 32
    torch.testing.assert_close(stylizer(photo), torch.full_like(photo, 0.5), atol=0.003, rtol=0)
    assert stylizer.describe() == "engine: torch, cpu, float32, in tiles"


def test_memory_that_is_too_small_for_refining_is_one_clear_line(
    tmp_path: Path, painting: Path
) -> None:
    stylizer = Stylizer.load(save_network(tmp_path / "dots.safetensors", painting), device="cpu")

    def full(photo: Tensor) -> Refined:
        raise torch.OutOfMemoryError("out of memory")

    stylizer.refiner = full  # type: ignore[assignment]
    with pytest.raises(ImageError, match="`refine` needs more memory than is free; take a `size`"):
        stylizer(read_image(draw(3, 64, 80)))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, painting: Path) -> Path:
    """The working folder: a checkpoint, its painting under another name, and a photo."""
    monkeypatch.chdir(tmp_path)
    save_network(Path("checkpoints/dots.safetensors"), painting)
    Path("given.png").write_bytes(painting.read_bytes())
    draw(3, 48, 60).save("photo.png")
    return tmp_path


@pytest.fixture
def call(workplace: Path, vgg_file: Path) -> Any:
    def run(*arguments: str) -> Result:
        options = ["-o", "out.png", "--overwrite", "--device", "cpu", "--engine", "torch"]
        return CliRunner().invoke(app, ["stylize", *options, *arguments])

    def with_weights(*arguments: str) -> Result:
        return run(*arguments, "--vgg-weights", str(vgg_file))

    return SimpleNamespace(plain=run, refined=with_weights)


def test_a_picture_is_refined_from_the_command_line(call: Any) -> None:
    assert call.plain("photo.png", "--style", "dots").exit_code == 0
    before = np.asarray(read_image("out.png"))
    given = ("photo.png", "--style", "dots", "--refine", "0.2", "--painting", "given.png")
    result = call.refined(*given)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(
        line.startswith("note: refined in ") and line.endswith(": photo.png") for line in lines
    )
    after = np.asarray(read_image("out.png"))
    assert after.shape == before.shape
    assert np.abs(after - before).mean() > 0.005
    report = json.loads(call.refined(*given, "--json").stdout)
    assert report["notes"][0].startswith("refined in ")


def test_the_painting_is_found_by_its_name(workplace: Path, vgg_file: Path, painting: Path) -> None:
    style = find_checkpoint("dots")

    def opened() -> Tensor:
        return Refiner.open(style, None, 1, CPU, vgg_file).loss.paintings[0]

    with pytest.raises(
        CheckpointError,
        match=r"dots\.safetensors was trained on dots\.png, which is not here: name that file with "
        "`painting`",
    ):
        opened()
    draw(9, 80, 96).save("dots.png")  # another picture of that name is not taken
    with pytest.raises(CheckpointError, match="which is not here"):
        opened()
    os.makedirs("data/styles")
    Path("data/styles/dots.png").write_bytes(painting.read_bytes())
    torch.testing.assert_close(opened(), fit_bounded(read_image(painting), 64))
    with pytest.raises(CheckpointError, match=r"was trained for another painting, dots\.png"):
        Refiner.open(style, Path("dots.png"), 1, CPU, vgg_file)


def test_each_painting_of_a_collection_has_a_weight_of_its_own(tmp_path: Path) -> None:
    config = {**NETWORK, "paintings": 2}
    paintings = tuple(
        {"name": name, "file": f"{name}.png", "balance": balance, "sha256": name}
        for name, balance in (("one", 0.25), ("two", 4.0))
    )
    about = About(config, {}, {}, "none", RECIPE.to_dict(), paintings=paintings)
    path = tmp_path / "both.safetensors"
    save_checkpoint(path, build_network(config), about)
    for name, balance in (("one", 0.25), ("two", 4.0)):
        style = find_checkpoint(f"{path}:{name}")
        from faststyle.checkpoint import read_about

        recipe = recipe_of(style, read_about(style))
        assert recipe.loss == replace(LOSS, balance=balance)


PRECISE = ("--painting", "given.png", "--precision", "int8")
REFUSED = {
    "several styles": (
        ["photo.png", "--style", "dots", "--style", "given", "--refine", "1"],
        "--refine takes one --style: several have no objective in common",
    ),
    "converted": (
        ["photo.png", "--style", "mosaic", "--refine", "1"],
        "mosaic.safetensors was converted from mosaic.pth: its painting and objective are not",
    ),
    "exported": (
        ["photo.png", "--style", "net.onnx", "--refine", "1"],
        "net.onnx: an exported file, whose painting and objective are not known; --refine takes",
    ),
    "no painting": (
        ["photo.png", "--style", "dots", "--refine", "1"],
        "which is not here: name that file with --painting",
    ),
    "no time": (
        ["photo.png", "--style", "dots", "--refine", "0", "--painting", "given.png"],
        "--refine takes seconds, more than 0, got 0",
    ),
    "a clip": (["clip.mp4", "--style", "dots", "--refine", "1", "-o", "out.mp4"], "--refine"),
    "a folder with a clip": (["mixed", "--style", "dots", "--refine", "1", "-o", "o"], "--refine"),
    "a data set": (["a.parquet", "--style", "dots", "--refine", "1", "-o", "o"], "--refine"),
    "Ray": (["photo.png", "--style", "dots", "--refine", "1", "--ray", "local"], "--refine"),
    "int8": (
        ["photo.png", "--style", "dots", "--refine", "1", "--engine", "auto", *PRECISE],
        "--refine makes another network for each photo, which runs in torch: take --engine torch",
    ),
    "a painting alone": (["photo.png", "--style", "dots", "--painting", "given.png"], "--painting"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_refined_is_refused(call: Any, workplace: Path, case: str) -> None:
    source = {"file": "mosaic.pth", "sha256": "ab" * 32}
    save_network(Path("checkpoints/mosaic.safetensors"), Path("given.png"), source=source)
    save_network(Path("checkpoints/given.safetensors"), Path("given.png"))
    Path("net.onnx").touch()
    os.mkdir("mixed")
    draw(3, 48, 60).save("mixed/photo.png")
    for name in ("clip.mp4", "mixed/clip.mp4", "a.parquet"):
        Path(name).touch()
    arguments, message = REFUSED[case]
    needs_weights = case not in ("a painting alone",)
    result = (call.refined if needs_weights else call.plain)(*arguments)
    assert result.exit_code == (1 if " " in message else 2), result.output
    assert message in " ".join(result.output.split())
    assert not Path("out.png").exists()
