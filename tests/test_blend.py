"""Several styles at once: means of networks, means of pictures, and mixes with the photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import draw
from torch import Tensor
from typer.testing import CliRunner

from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.cli import app
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, ImageError
from faststyle.images import read_image
from faststyle.networks import build_network
from faststyle.stylize.blend import can_be_mixed, mean_network, parse_style
from faststyle.stylize.stylizer import Look, Stylizer

TORCH = EngineOptions("torch", "cpu")
NETWORK = {"name": "mobile", "width": 4, "blocks": 1}


def save(name: str, seed: int, base: str = "one", width: int = 4, license: str = "MIT") -> Path:
    """A checkpoint with random weights; all biases and palettes are equal to its seed."""
    torch.manual_seed(seed)
    config = {**NETWORK, "width": width}
    network = build_network(config)
    torch.nn.init.normal_(network.get_parameter("head.weight"), std=0.1)
    path = Path("checkpoints") / f"{name}.safetensors"
    about = About(config, {"file": name}, {}, "", {}, base=base, license=license)
    save_checkpoint(path, network, about)
    return path


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    return save("a", 1), save("b", 2, license="research use")


@pytest.fixture
def photo() -> Tensor:
    return read_image(draw(0, 40, 48))


def test_weights_are_parsed(two: tuple[Path, Path]) -> None:
    assert parse_style("a") == (two[0], 1.0)
    assert parse_style("a:0.25") == (two[0], 0.25)
    assert parse_style(f"{two[1]}:3") == (two[1], 3.0)
    save("7", 3)
    assert parse_style("7") == (Path("checkpoints/7.safetensors"), 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:0", "a weight must be above 0"),
        ("a:-1", "a weight must be above 0"),
        ("a:nan", "a weight must be above 0"),
        ("a:inf", "a weight must be above 0"),
        ("none:0.5", "no checkpoint 'none'"),
        ("a:much", "no checkpoint 'a:much'"),
    ],
)
def test_other_weights_are_refused(two: tuple[Path, Path], text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_style(text)


def test_only_networks_of_one_base_and_shape_are_mixed(two: tuple[Path, Path]) -> None:
    assert can_be_mixed(two)
    assert not can_be_mixed((two[0], save("another", 3, base="another")))
    assert not can_be_mixed([save(name, 3, base="") for name in ("scratch", "old")])
    assert not can_be_mixed((two[0], save("wide", 4, width=8)))
    assert not can_be_mixed((two[0], Path("a.onnx")))


def test_a_mean_network_has_the_mean_of_all_weights(two: tuple[Path, Path]) -> None:
    network, about = mean_network(two, (3.0, 1.0))
    assert about.license == "research use"
    a, b = (load_checkpoint(path)[0].state_dict() for path in two)
    assert network.state_dict().keys() == a.keys()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, 0.75 * a[key] + 0.25 * b[key])


def test_a_blend_of_one_base_runs_one_network(two: tuple[Path, Path], photo: Tensor) -> None:
    stylizer = Stylizer.blend(["a:3", "b"], TORCH)
    with torch.no_grad():
        expected = mean_network(two, (3.0, 1.0))[0](photo)
    torch.testing.assert_close(stylizer(photo), expected, atol=1e-4, rtol=0)


def test_others_are_blended_as_pictures_and_that_is_said(
    two: tuple[Path, Path], photo: Tensor
) -> None:
    save("wide", 4, width=8)
    lines: list[str] = []
    stylizer = Stylizer.blend(["a:3", "wide"], TORCH, announce=lines.append)
    a, wide = (Stylizer.load(name, device="cpu")(photo) for name in ("a", "wide"))
    torch.testing.assert_close(stylizer(photo), 0.75 * a + 0.25 * wide, atol=1e-4, rtol=0)
    assert lines == [
        "these styles do not share a base: their pictures are blended, not their networks"
    ]


def test_mix_is_between_photo_and_style(two: tuple[Path, Path], photo: Tensor) -> None:
    stylizer = Stylizer.load("a", device="cpu")
    torch.testing.assert_close(stylizer(photo, mix=0.0), photo)
    torch.testing.assert_close(
        stylizer(photo, mix=0.25), 0.75 * photo + 0.25 * stylizer(photo), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_other_mixes_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="`mix` must be 0"):
        Look(mix=value)


def test_the_command_blends_and_mixes(two: tuple[Path, Path]) -> None:
    draw(0, 40, 48).save("photo.png")
    options = ["stylize", "photo.png", "--style", "a:0.6", "--style", "b:0.4", "--mix", "0.5"]
    result = CliRunner().invoke(app, [*options, "-o", "out.png", "--engine", "torch"])
    assert (result.exit_code, result.stdout) == (0, "wrote out.png (engine: torch, cpu, float32)\n")
    photo = read_image("photo.png")
    expected = Stylizer.blend(["a:0.6", "b:0.4"], TORCH)(photo, mix=0.5)
    torch.testing.assert_close(read_image("out.png"), expected, atol=1.01 / 255, rtol=0)
