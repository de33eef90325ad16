"""Refining: time, the objective, smoothness, sizes, files of paintings, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.sizes import fit_bounded, resize
from faststyle.slow.descent import Descent, Step
from faststyle.stylize import refine as module
from faststyle.stylize.refine import RIM, Refined, Refiner
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
def picture() -> Tensor:
    """What a network may have painted of the photo."""
    return 0.7 * read_image(draw(3, 72, 90)) + 0.15


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later each time that it is looked at."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def refiner(weights: VGGWeights, painting: Path, seconds: float = 4, **settings: Any) -> Refiner:
    return Refiner(RECIPE, read_image(painting), weights, seconds, CPU, **settings)


@pytest.mark.usefixtures("clock")
def test_the_objective_of_training_goes_down_from_the_network_s_picture(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor, picture: Tensor
) -> None:
    found = refiner(tiny_weights, painting)(photo, picture)
    config = replace(LOSS, contrast=1.0, light_weight=2 * LOSS.weights().light)
    loss = PerceptualLoss(
        load_vgg(tiny_weights, ["relu3_1"]), fit_bounded(read_image(painting), 64), config
    )

    def total(image: Tensor) -> float:
        rimmed = [F.pad(x, (RIM,) * 4, mode="reflect") for x in (image, photo)]
        with torch.no_grad():
            return float(loss(rimmed[0], loss.targets(rimmed[1])).total)

    assert found.first["total"] == pytest.approx(total(picture), rel=1e-4)
    assert found.last["total"] < 0.8 * found.first["total"]
    # The rim of the result is optimised too, and is no mirror any more.
    assert total(found.picture) < 0.9 * total(picture)
    assert found.picture.shape == picture.shape
    assert 0 <= float(found.picture.min()) < float(found.picture.max()) <= 1


@pytest.mark.usefixtures("clock")
def test_it_ends_with_the_first_step_after_the_time(
    tiny_weights: VGGWeights, painting: Path, photo: Tensor, picture: Tensor
) -> None:
    told: list[tuple[float, float]] = []
    slow = refiner(tiny_weights, painting, 4, progress=lambda *done: told.append(done))
    found = slow(photo, picture)
    # The clock began at 0; the start was seen at 1, and step 3 at 4.
    assert (found.steps, found.seconds) == (3, 4.0)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    words = f"refined in 4.0 s, 3 steps: objective {found.first['total']:.3f} to "
    assert found.describe() == f"{words}{found.last['total']:.3f}"
    # However short the time is, there is one step.
    assert refiner(tiny_weights, painting, 0.1)(photo, picture).steps == 1


class Worse(Descent):
    """A descent that goes up after its start."""

    def run(self, steps: int, first: int = 0) -> Iterator[Step]:
        for number, total in enumerate((1.0, 1.5, 2.0)):
            image = self.pixels.detach() if number == 0 else torch.rand_like(self.pixels)
            yield Step(number, number, {"total": total}, image)


class Failing(Worse):
    """A descent whose terms are not finite after a worse step."""

    def run(self, steps: int, first: int = 0) -> Iterator[Step]:
        steps_of = super().run(steps, first)
        yield next(steps_of)
        yield next(steps_of)
        raise TrainingError("step 2: the total term is not finite")


@pytest.mark.parametrize("descent", [Worse, Failing])
def test_the_network_s_own_picture_is_kept_where_nothing_is_better(
    tiny_weights: VGGWeights,
    painting: Path,
    photo: Tensor,
    picture: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    clock: None,
    descent: type[Descent],
) -> None:
    monkeypatch.setattr(module, "Descent", descent)
    found = refiner(tiny_weights, painting, 2)(photo, picture)
    assert torch.equal(found.picture, picture)
    assert found.describe().startswith("not refined: ")
    assert "did not go below the 1.000 of the network's picture" in found.describe()


def test_changes_have_no_checkerboard_and_colours_change_in_larger_parts() -> None:
    start = torch.full((1, 3, 32, 32), 0.5)
    rows = torch.arange(32)
    board = ((rows[:, None] + rows) % 2 * 2 - 1) * 0.4 + torch.zeros(1, 3, 32, 32)
    inside = (..., slice(2, -2), slice(2, -2))
    every = torch.ones(1, 1, 32, 32)
    got = module.smoothed(start, start + board, every)
    assert (got - start)[inside].abs().max() < 1e-6
    # Of stripes of 4 pixels a quarter is kept in light and dark, (-1 - 4 + 6 + 4 - 1) / 16, and
    # nothing in hue.
    stripes = (torch.arange(32) // 2 % 2 * 2.0 - 1) * 0.2
    grey = module.smoothed(start, start + stripes, every)
    assert float((grey - start)[inside].abs().mean()) == pytest.approx(0.05, rel=1e-4)
    hue = torch.tensor([0.587, -0.299, 0.0]).view(1, 3, 1, 1)  # of no luminance (ITU-R BT.601)
    assert (module.smoothed(start, start + hue * stripes, every) - start).abs().max() < 1e-6
    # A change that is the same everywhere stays as it is, and pixels stay in [0, 1].
    for fine in (every, 0 * every):
        even = start + 0.2 * hue
        torch.testing.assert_close(module.smoothed(start, even, fine), even)
        assert float(module.smoothed(start, start + 0.7, fine).max()) == 1
    # Flat places take fine changes in part.
    part = module.smoothed(start, start + stripes, 0.2 * every)
    assert float((part - start)[inside].abs().mean()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.usefixtures("clock")
def test_of_a_large_picture_a_smaller_copy_is_refined_without_seams(
    tiny_weights: VGGWeights,
    painting: Path,
    photo: Tensor,
    picture: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []

    class Watched(Descent):
        def __init__(self, image: Tensor, *rest: Any) -> None:
            seen.append(image)
            super().__init__(image, *rest)

    monkeypatch.setattr(module, "Descent", Watched)
    monkeypatch.setattr(module, "LARGEST_AREA", 36 * 45)
    monkeypatch.setattr(module, "SMALL", 20)
    slow = refiner(tiny_weights, painting, 3)
    found = slow(photo, picture)
    assert seen[0].shape[-2:] == (36 + 2 * RIM, 45 + 2 * RIM)
    # The painting is as much smaller as the picture is, so strokes are as large as before.
    assert slow._objectives[0.5].paintings[0].shape[-2:] == (32, 38)
    assert slow._objective(0.1).paintings[0].shape[-2:] == (20, 24)  # none is smaller
    assert found.last["total"] < found.first["total"]
    off = found.picture - picture
    assert float(off.abs().mean()) > 0.003
    # What was added is soft: it has no detail that a picture of half the size does not have.
    soft = resize(off + 0.5, 36, 45)
    again = F.interpolate(soft, off.shape[-2:], mode="bicubic") - 0.5
    assert float((again - off).abs().mean()) < 0.2 * float(off.abs().mean())


def test_too_small_a_picture_is_refused(tiny_weights: VGGWeights, painting: Path) -> None:
    tiny = torch.rand(1, 3, 16, 40)
    with pytest.raises(ImageError, match="16x40 pixels are too few for `refine`, which needs 17"):
        refiner(tiny_weights, painting)(tiny, tiny)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_seconds_must_be_above_0(tiny_weights: VGGWeights, painting: Path, seconds: float) -> None:
    with pytest.raises(ImageError, match="`refine` takes seconds, more than 0, got"):
        refiner(tiny_weights, painting, seconds)


class Grey:
    """A refiner that returns grey pictures, and notes their sizes."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, photo: Tensor, picture: Tensor) -> Refined:
        assert photo.shape == picture.shape
        self.sizes.append(tuple(photo.shape[-2:]))
        terms: Mapping[str, float] = {"total": 1.0}
        return Refined(torch.full_like(picture, 0.4), 1, 1.0, terms, {"total": 0.5})


def test_a_look_is_made_of_the_refined_picture(tmp_path: Path, painting: Path) -> None:
    stylizer = Stylizer.load(save_network(tmp_path / "dots.safetensors", painting), device="cpu")
    grey = Grey()
    stylizer.refiner = grey  # type: ignore[assignment]
    photo = read_image(draw(3, 64, 80))
    torch.testing.assert_close(stylizer(photo), torch.full_like(photo, 0.4))
    torch.testing.assert_close(stylizer(photo, mix=0.25), 0.75 * photo + 0.1)
    kept = stylizer(photo, keep_colors=True)
    # As light as the refined picture everywhere, in hues of the photo.
    assert float(kept.std()) > 0.05
    stylizer(photo, stroke_size=2)
    assert grey.sizes == [(64, 80)] * 3 + [(32, 40)]
    several = stylizer.stylize_batch([Picture(photo), Picture(photo)])
    assert all(float(one.rgb.std()) < 1e-6 for one in several)
    assert several[0].notes == ("refined in 1.0 s, 1 step: objective 1.000 to 0.500",)


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
        return Refiner.open(style, None, 1, CPU, vgg_file).painting

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
    torch.testing.assert_close(opened(), read_image(painting))
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
