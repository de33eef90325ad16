"""Shared by all tests: a tiny seeded VGG, a painting, photos, a checkpoint, and no internet."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.images import read_image
from faststyle.networks.johnson import Johnson
from faststyle.perceptual.vgg import VGG, layer_names
from faststyle.perceptual.weights import VGGWeights, read_weights
from faststyle.training import held_out

TINY_WIDTH = 1 / 16  # 4 to 32 channels
NETWORK = {"name": "johnson", "width": 4, "blocks": 1}


if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a process of tests already
    os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _offline(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    """Keep tests of the unit tier from downloading, and from the user's folders."""
    if "weights" in request.keywords:
        return
    monkeypatch.setenv("FASTSTYLE_DATA", str(tmp_path_factory.mktemp("data")))
    # An empty gallery: a test sees the styles that it made itself.
    monkeypatch.setattr("faststyle.checkpoint.GALLERY", tmp_path_factory.mktemp("gallery"))
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def _without_bf16():
    """Let tests compare numbers in float32 on every CPU; tests of bf16 ask for it by name."""
    with pytest.MonkeyPatch.context() as patch:
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            patch.setattr(torch.cpu, probe, lambda: False, raising=False)
        yield


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for `--vgg-weights`: a VGG-16 of a sixteenth of the width with seeded weights."""
    path = tmp_path_factory.mktemp("vgg") / "tiny.safetensors"
    write_tiny_vgg(path)
    return path


def write_tiny_vgg(path: Path) -> None:
    torch.manual_seed(0)
    vgg = VGG("vgg16", [f"relu{n}" for n in layer_names("vgg16")], width=TINY_WIDTH)
    about = {
        "arch": "vgg16",
        "id": "vgg16-tiny",
        "license": "none",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    for conv in vgg.convs.values():  # or activations would die out in thirteen layers
        torch.nn.init.kaiming_normal_(conv.weight)
    save_file(dict(vgg.convs.state_dict()), path, metadata={"faststyle_vgg": json.dumps(about)})


@pytest.fixture(scope="session")
def tiny_weights(vgg_file: Path) -> VGGWeights:
    return read_weights(vgg_file)


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip where an extra is not installed.

    `pytest.importorskip` would import it: OpenVINO, with its telemetry.
    """
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def draw(seed: int, height: int, width: int) -> Image.Image:
    """A colourful picture with smooth shapes and some grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (width, height), 3
    )
    grain = rng.normal(0, 10, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("painting") / "dots.png"
    draw(1, 80, 96).save(path)
    return path


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos, two of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i in range(6):
        draw(10 + i, 60 + i, 90 - i).save(folder / ("more" if i > 3 else ".") / f"{i}.png")
    return folder


def draw_batch(count: int, h: int, w: int) -> Tensor:
    return torch.cat([read_image(draw(i, h, w)) for i in range(count)])


def painted(checkpoint: Path, images: Tensor) -> Tensor:
    """Return the pictures that a checkpoint paints of images, in torch."""
    with torch.no_grad():
        out: Tensor = load_checkpoint(checkpoint)[0](images)
    return out


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, painting: Path) -> Path:
    """A network with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "dots.safetensors"
    write_random_network(path)
    return path


def write_random_network(path: Path) -> None:
    torch.manual_seed(0)
    network = Johnson(4, 1)
    network.head.weight.data.mul_(0.1)  # 8 bits keep extreme values worst: avoid them
    about = About(
        NETWORK, {"file": "dots.png"}, vgg={}, photos="none", recipe={}, license="CC0-1.0"
    )
    save_checkpoint(path, network, about)


@pytest.fixture
def one_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the tests of engines and of exports: a conversion takes ten seconds."""
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))


def numpy_squares(image: np.ndarray, side: int = 8) -> np.ndarray:
    """Means over squares of (3, H, W): (3, H / 8, W / 8)."""
    h, w = (length // side for length in image.shape[1:])
    cut = image[:, : side * h, : side * w]
    return cut.reshape(3, h, side, w, side).mean((2, 4))


def numpy_light_error(x: np.ndarray, photo: np.ndarray, painting: np.ndarray) -> float:
    """The dampened light term of pictures (3, H, W), by the docstrings of light.py."""
    y, p = (numpy_squares(image).reshape(3, -1) for image in (x, photo))
    s = numpy_squares(painting, 2).reshape(3, -1)
    s = s[:, np.linspace(0, s.shape[1] - 1, 256).round().astype(int)]
    own, wanted = (np.cov(c, bias=True) + 2e-3 * np.eye(3) for c in (p, s))
    root = numpy_root(own)
    linear = np.linalg.solve(root, numpy_root(1.5 * root @ wanted @ root)) @ np.linalg.inv(root)
    moved = s.mean(1, keepdims=True) + linear @ (p - p.mean(1, keepdims=True))
    moved = moved.clip(0, 1)
    far = ((moved[:, :, None] - s[:, None]) ** 2).sum(0)
    near = np.exp(-0.5 * far / 0.05**2)
    asked = 0.5 * moved + 0.5 * s @ (near / near.sum(1, keepdims=True)).T
    off = y - asked
    error = 0.5 * (off * np.linalg.solve(wanted, off)).sum(0).mean() / 3
    return float(np.sqrt(1 + 2 * error) - 1)


def numpy_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    return root


@pytest.fixture
def small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in an empty folder, with pictures and scores smaller than a person would want: time."""
    monkeypatch.chdir(tmp_path)
    for size in ("PREVIEW_SIZE", "STRIP_SIZE", "SCORE_SIZE"):
        monkeypatch.setattr(held_out, size, 96)
