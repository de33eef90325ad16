"""Networks of PyTorch's example: the same pictures after conversion, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import draw, draw_batch, needs, painted
from torch import Tensor, nn
from typer.testing import CliRunner

from faststyle.checkpoint import find_checkpoint, load_checkpoint, read_about
from faststyle.cli import app
from faststyle.convert import convert_checkpoint
from faststyle.engines.opening import open_engine
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, OutputError
from faststyle.files import sha256
from faststyle.images import read_image
from faststyle.stylize.stylizer import Stylizer


class Mirrored(nn.Module):
    """A convolution on mirrored edges, perhaps after each pixel was made four."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, up: int = 1):
        super().__init__()
        self.up = up
        self.pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.up, 2).repeat_interleave(self.up, 3)
        return self.conv2d(self.pad(x))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Mirrored(channels, channels, 3)
        self.in1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = Mirrored(channels, channels, 3)
        self.in2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.in2(self.conv2(F.relu(self.in1(self.conv1(x)))))


class TheirNetwork(nn.Module):
    """The network of the example, by its published structure: from and to [0, 255]."""

    def __init__(self, width: int = 32, blocks: int = 5) -> None:
        super().__init__()
        w = width
        channels = (w, 2 * w, 4 * w, 2 * w, w)
        for n, c in enumerate(channels, 1):
            self.add_module(f"in{n}", nn.InstanceNorm2d(c, affine=True))
        self.conv1 = Mirrored(3, w, 9)
        self.conv2 = Mirrored(w, 2 * w, 3, stride=2)
        self.conv3 = Mirrored(2 * w, 4 * w, 3, stride=2)
        self.blocks = blocks
        for n in range(blocks):
            self.add_module(f"res{n + 1}", Block(4 * w))
        self.deconv1 = Mirrored(4 * w, 2 * w, 3, up=2)
        self.deconv2 = Mirrored(2 * w, w, 3, up=2)
        self.deconv3 = Mirrored(w, 3, 9)

    def forward(self, y: Tensor) -> Tensor:
        for n, conv in enumerate((self.conv1, self.conv2, self.conv3), 1):
            y = F.relu(self.get_submodule(f"in{n}")(conv(y)))
        for n in range(self.blocks):
            y = self.get_submodule(f"res{n + 1}")(y)
        for n, conv in enumerate((self.deconv1, self.deconv2), 4):
            y = F.relu(self.get_submodule(f"in{n}")(conv(y)))
        return self.deconv3(y)


def their_network(width: int = 4, blocks: int = 5) -> TheirNetwork:
    """A network with random weights, also in the norms. Its pictures use all of [0, 255]."""
    torch.manual_seed(3)
    network = TheirNetwork(width, blocks).eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    nn.init.normal_(network.deconv3.conv2d.weight, 0, 10 / width**0.5)
    nn.init.constant_(network.deconv3.conv2d.bias, 128)
    return network


def their_picture(network: nn.Module, photos: Tensor) -> Tensor:
    h, w = photos.shape[-2:]
    with torch.no_grad():
        return network(255 * photos)[..., :h, :w].clamp(0, 255) / 255


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    torch.save(their_network().state_dict(), tmp_path / "mosaic.pth")
    return tmp_path / "mosaic.pth"


@pytest.fixture
def converted(pth: Path) -> Path:
    path = pth.parent / "checkpoints" / "mosaic.safetensors"
    convert_checkpoint(pth, path)
    return path


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (33, 47), (32, 34)])
def test_the_pictures_are_theirs(converted: Path, size: tuple[int, int]) -> None:
    photos = draw_batch(2, *size)
    expected = their_picture(their_network(), photos)
    assert float(expected.std()) > 0.1
    assert float((painted(converted, photos) - expected).abs().max()) < 0.1 / 255


def test_the_networks_of_the_example_have_32_channels(tmp_path: Path) -> None:
    network = their_network(32)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert done.network == {"name": "pytorch_example", "width": 32, "blocks": 5}
    photos = draw_batch(1, 60, 70)
    expected = their_picture(network, photos)
    assert float((painted(done.file, photos) - expected).abs().max()) < 0.1 / 255


def test_forks_of_other_sizes(tmp_path: Path) -> None:
    network = their_network(6, blocks=3)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert done.network == {"name": "pytorch_example", "width": 6, "blocks": 3}
    photos = draw_batch(1, 40, 50)
    expected = their_picture(network, photos)
    assert float((painted(done.file, photos) - expected).abs().max()) < 0.1 / 255


def test_blue_before_red(tmp_path: Path, pth: Path) -> None:
    done = convert_checkpoint(pth, tmp_path / "a.safetensors", bgr=True)
    photos = draw_batch(1, 40, 50)
    expected = their_picture(their_network(), photos.flip(1)).flip(1)
    assert float((painted(done.file, photos) - expected).abs().max()) < 0.1 / 255


@pytest.mark.parametrize("kind", ["wrapped", "parallel", "statistics", "legacy", "all"])
def test_files_of_other_versions(tmp_path: Path, pth: Path, kind: str) -> None:
    state: dict[str, Any] = dict(their_network().state_dict())
    expected = convert_checkpoint(pth, tmp_path / "a.safetensors").file
    if kind in ("statistics", "all"):
        for key in [key for key in state if ".in" in f".{key}" and key.endswith("weight")]:
            for name in ("running_mean", "running_var"):
                state[key.replace("weight", name)] = torch.rand(state[key].shape)
    if kind in ("parallel", "all"):
        state = {f"module.{key}": value for key, value in state.items()}
    if kind in ("wrapped", "all"):
        state = {"state_dict": state, "epoch": 2}
    zipped = kind not in ("legacy", "all")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    got = convert_checkpoint(tmp_path / "b.pth", tmp_path / "b.safetensors").file
    ours = load_checkpoint(got)[0].state_dict()
    for key, value in load_checkpoint(expected)[0].state_dict().items():
        assert torch.equal(ours[key], value)


def test_the_metadata_says_where_it_came_from(pth: Path, converted: Path) -> None:
    about = read_about(converted)
    assert about.license == "unknown: that of the file"
    assert about.source == {"file": "mosaic.pth", "sha256": sha256(pth)}
    assert about.painting == {}
    assert about.recipe == {}


@needs("onnx", "onnxscript", "onnxruntime", "openvino")
@pytest.mark.usefixtures("one_cache")
def test_engines_and_tiles_paint_the_same(converted: Path) -> None:
    photos = draw_batch(1, 61, 90)
    expected = their_picture(their_network(), photos)
    for name in ("onnxruntime", "openvino"):
        engine = open_engine(converted, EngineOptions(name, "cpu", "float32"))
        assert float((engine(photos) - expected).abs().max()) < 1 / 255
    options = EngineOptions("torch", "cpu", "float32")
    tiles = Stylizer.blend([str(converted)], options, tile=32)
    assert float((tiles(photos) - expected).abs().max()) < 1 / 255


def test_commands_use_it(pth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pth.parent)
    draw(5, 50, 60).save("photo.png")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.stdout

    text = run("convert", "mosaic.pth", "-o", "checkpoints/mosaic.safetensors")
    assert text == (
        "wrote checkpoints/mosaic.safetensors: pytorch_example, width 4, 5 residual blocks; "
        "its licence is mosaic.pth's, unknown here\n"
    )
    assert find_checkpoint("mosaic") == Path("checkpoints/mosaic.safetensors")
    run("stylize", "photo.png", "--style", "mosaic", "-o", "out.png", "--engine", "torch")
    expected = their_picture(their_network(), read_image(Path("photo.png")))
    assert float((read_image(Path("out.png")) - expected).abs().max()) < 1 / 255
    assert "unknown: that of the file" in run("info", "mosaic")
    row = json.loads(run("list", "--json"))[0]
    assert (row["name"], row["painting"]) == ("mosaic", "")
    again = run("convert", "mosaic.pth", "-o", "b.safetensors", "--json")
    assert json.loads(again)["sha256"] == sha256(Path("mosaic.pth"))


def changed(path: Path, **tensors: Any) -> Path:
    """Write a state dict with other tensors; None removes one. "." is "__" in the names."""
    state = {**their_network().state_dict()}
    state.update({key.replace("__", "."): value for key, value in tensors.items()})
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return path


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv1__conv2d__weight": None}, "has no 'conv1.conv2d.weight'; expected is the state"),
        ({"in5__bias": None}, "has no 'in5.bias'; expected is"),
        ({"res3__in2__bias": None}, "has no 'res3.in2.bias'; expected is"),
        ({"extra__bias": torch.ones(3)}, "'extra.bias' is of another network; expected"),
        (
            {"conv1__conv2d__weight": torch.ones(4, 1, 9, 9)},
            "'conv1.conv2d.weight' is (4, 1, 9, 9), not (channels, 3, 9, 9); expected",
        ),
        ({"in5__bias": torch.ones(5)}, "'in5.bias' is (5,), not (4,); expected"),
        ({"in5__bias": torch.full((4,), torch.nan)}, "'in5.bias' has values that are not finite"),
        ({"in5__bias": 3}, "'in5.bias' is not a tensor with a name"),
        (
            {"conv1__conv2d__weight": torch.ones(1, 3, 9, 9).expand(10**9, 3, 9, 9)},
            "width is at most 1024",
        ),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    path = changed(tmp_path / "a.pth", **tensors)
    check_refused(path, message)


def check_refused(path: Path, message: str) -> None:
    output = path.with_suffix(".safetensors")
    done = CliRunner().invoke(app, ["convert", str(path), "-o", str(output)])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert done.stderr.startswith(f"error: {path}: ")
    assert message in done.stderr
    assert not output.exists()


def test_files_that_could_run_code_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(their_network(), whole)
    check_refused(whole, "could run any code (pickle), so it is not read; save the weights alone")


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.pth"
    text.write_text("hello " * 100)
    check_refused(text, "damaged, or not a file of torch.save; expected is")
    cut = changed(tmp_path / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:5000])
    check_refused(cut, "damaged, or not a file of torch.save; expected is")
    numbers = tmp_path / "numbers.pth"
    torch.save([1, 2], numbers)
    check_refused(numbers, "holds no state dict; expected is")
    check_refused(tmp_path / "missing.pth", "no such file")


def test_the_output_is_a_checkpoint(pth: Path) -> None:
    with pytest.raises(OutputError, match=r"`output` .*a\.pth: .* ends in \.safetensors"):
        convert_checkpoint(pth, pth.with_name("a.pth"))
    with pytest.raises(CheckpointError, match="no such file"):
        convert_checkpoint(pth.with_name("b.pth"), pth.with_name("b.safetensors"))


def test_a_checkpoint_that_is_there_is_kept(pth: Path, converted: Path) -> None:
    before = converted.read_bytes()
    with pytest.raises(OutputError, match="is there already; `overwrite` replaces it"):
        convert_checkpoint(pth, converted)
    assert converted.read_bytes() == before
    convert_checkpoint(pth, converted, bgr=True, overwrite=True)
    assert converted.read_bytes() != before
