"""The state of an installation: versions, machine, folders, and each engine beside torch.

Nothing is downloaded. cli/about.py prints it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

import faststyle
from faststyle.checkpoint import (
    base_file,
    checkpoints_at_hand,
    package_collections,
    read_about,
    style_folders,
)
from faststyle.devices import cores, cpu_facts, find_device, has_fast_bf16
from faststyle.engines.engine import Engine
from faststyle.engines.graph import NEEDS, to_onnx
from faststyle.engines.opening import GRAPH_ENGINES
from faststyle.engines.openvino_engine import import_openvino, openvino_core
from faststyle.engines.options import AUTO, ENGINES, EXTRAS
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import FaststyleError
from faststyle.files import cache_folder
from faststyle.networks import build_network
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.weights import read_weights

# Packages and their extras, "" for those that are always installed.
PACKAGES = {
    **dict.fromkeys(("torch", "torchvision", "accelerate", "datasets", "numpy", "PIL"), ""),
    **dict.fromkeys(("safetensors", "skimage", "jinja2"), ""),
    "av": "video",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "openvino": "fast",
    "nncf": "int8",
    "pyvips": "huge",
    "matplotlib": "compare",
    "cv2": "flicker",
    "scipy": "flicker",
    "fastapi": "serve",
    "uvicorn": "serve",
}
# Where the name is another.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image"}
# Flags of CPUs that engines are faster with, as Linux writes them.
FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16"),
    *("amx_int8", "asimd", "sve", "i8mm", "bf16"),
)
NETWORK = {"name": "johnson", "width": 8, "blocks": 1}
SIZE = (61, 83)  # pixels; odd, so that padding and cropping are compared too
# Most levels, of 255, that a value of a picture may be away from torch's in float32.
MAX_LEVELS = {"float32": 2.0, "bf16": 20.0, "f16": 20.0}
OK = "ok"
MISSING = "not installed"
ABSENT = "not there"  # of a file that is downloaded when it is needed
BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """The state of a package, engine or file: ok, not installed, not there, or broken.

    `detail` is a version, a measurement, an error, or the command that installs it.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Folder:
    """A folder that is used, whether or not it is there yet, and the bytes of its files."""

    name: str
    path: Path
    size: int
    free: int  # bytes of its disk


@dataclass(frozen=True)
class Diagnosis:
    """All that is known about an installation. `machine` and `devices` are for people to read."""

    versions: Mapping[str, str]
    machine: Mapping[str, str]
    devices: Mapping[str, str]
    folders: tuple[Folder, ...]
    styles: Mapping[str, int]  # how many are in a folder
    packages: tuple[Finding, ...]
    weights: tuple[Finding, ...]
    engines: tuple[Finding, ...]
    damaged_styles: tuple[str, ...]

    @property
    def broken(self) -> list[Finding]:
        """Return all that is installed and does not work."""
        found = (*self.packages, *self.weights, *self.engines)
        return [finding for finding in found if finding.state == BROKEN]


def diagnose() -> Diagnosis:
    """Return the state of this installation. It takes about 20 s, most of it for a conversion.

    Example:
        >>> [finding.name for finding in diagnose().broken]
        []
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages: they are not about this installation
        packages = tuple(_check_package(name, extra) for name, extra in PACKAGES.items())
        styles, damaged = _count_styles()
        return Diagnosis(
            {"python": platform.python_version(), "faststyle": faststyle.__version__},
            _describe_machine(),
            _describe_devices(packages),
            _find_folders(),
            styles,
            packages,
            tuple(_check_weights(arch) for arch in ("vgg16", "vgg19")),
            _check_engines(packages),
            damaged,
        )


def _install(extra: str) -> str:
    return f"pip install 'faststyle-trainer[{extra}]'" if extra else "pip install faststyle-trainer"


def _check_package(name: str, extra: str) -> Finding:
    """Import a package and return its version. Any error at import means that it is broken."""
    shown = DISTRIBUTIONS.get(name, name)
    if importlib.util.find_spec(name) is None:
        # A package that is always needed is no choice: without it something is broken.
        return Finding(shown, MISSING if extra else BROKEN, _install(extra))
    try:
        if name in ("openvino", "nncf"):
            import_openvino()  # first, for it turns their telemetry off
        module = importlib.import_module(name)
    except Exception as error:  # of a library that does not load: all kinds
        return Finding(shown, BROKEN, _one_line(error))
    # The module's own version says more: 2.14.1+cu130 is torch's build for CUDA.
    version = getattr(module, "__version__", None) or importlib.metadata.version(shown)
    return Finding(shown, OK, str(version))


def _describe_machine() -> dict[str, str]:
    """Return system, cores, flags of the CPU and memory."""
    memory = psutil.virtual_memory()
    flags = _cpu_flags()
    return {
        "system": platform.platform(),
        "cores": f"{psutil.cpu_count(logical=False)} ({psutil.cpu_count()} threads), "
        f"{cores()} usable; torch takes {torch.get_num_threads()}",
        "cpu flags": "unknown here" if flags is None else " ".join(flags) or "none of note",
        "bf16 on cpu": "in hardware" if has_fast_bf16(torch.device("cpu")) else "none",
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
    }


def _cpu_flags() -> list[str] | None:
    """Return the flags of the CPU that matter here; None where the system does not tell them."""
    facts = cpu_facts()
    if not facts:
        return None
    known = (facts.get("flags") or facts.get("Features", "")).split()  # Features: on ARM
    return [flag for flag in FLAGS if flag in known]


def _describe_devices(packages: tuple[Finding, ...]) -> dict[str, str]:
    """Return the devices that torch, ONNX Runtime and OpenVINO find."""
    there = {finding.name for finding in packages if finding.state == OK}
    devices = {"torch": _try(_torch_devices)}
    if "onnxruntime" in there:
        runtime = importlib.import_module("onnxruntime")
        devices["onnxruntime"] = _try(lambda: ", ".join(runtime.get_available_providers()))
    if "openvino" in there:
        devices["openvino"] = _try(lambda: ", ".join(openvino_core().available_devices))
    return devices


def _torch_devices() -> str:
    device = find_device()
    if device.type == "cpu":
        return "cpu"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"cpu, {device.type} {name}".strip()


def _try(question: Callable[[], str]) -> str:
    """Return the answer, or the error in one line."""
    try:
        return question()
    except Exception as error:  # of a driver: all kinds
        return f"error: {_one_line(error)}"


def _find_folders() -> tuple[Folder, ...]:
    """Return the folder that commands run in, and the caches."""
    from huggingface_hub import constants

    caches = {"cache": cache_folder(), "hugging face": Path(constants.HF_HOME)}
    folders = [Folder("here", Path.cwd(), 0, _free(Path.cwd()))]
    for name, path in caches.items():
        folders.append(Folder(name, path, _size(path), _free(path)))
    return tuple(folders)


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:  # removed meanwhile
                continue
    return total


def _free(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder, which need not be there yet."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return shutil.disk_usage(there).free if there else 0


def _count_styles() -> tuple[dict[str, int], tuple[str, ...]]:
    """Return how many checkpoints are in each folder, and the errors of those that are damaged."""
    found = dict.fromkeys(map(str, (*style_folders(), base_file().parent)), 0)
    damaged = []
    for path in (*checkpoints_at_hand(), *package_collections()):
        try:
            read_about(path)
        except FaststyleError as error:
            damaged.append(str(error))
            continue
        found[str(path.parent)] = found.get(str(path.parent), 0) + 1
    return found, tuple(damaged)


def _check_weights(arch: str) -> Finding:
    """Return whether VGG weights are in the cache; nothing is downloaded."""
    path = cache_folder() / f"{arch}.safetensors"
    if not path.exists():
        return Finding(arch, ABSENT, "downloaded when it is first needed, to train or to judge")
    try:
        return Finding(arch, OK, f"{read_weights(path, arch).id}, {path}")
    except FaststyleError as error:
        return Finding(arch, BROKEN, str(error))


def _check_engines(packages: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Run one small picture through every engine that is installed, and compare it with torch."""
    torch.manual_seed(0)
    network = build_network(NETWORK).eval()
    photo = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        expected = network(photo)
    # Converted when the first engine asks for it, and once for all.
    graph = functools.cache(lambda: to_onnx(network, {}))
    findings = []
    for name in ENGINES[1:]:  # the first is "auto"
        wanted = (name, *(NEEDS if name in GRAPH_ENGINES else ()))
        found = [finding for finding in packages if finding.name in wanted]
        if missing := [finding.name for finding in found if finding.state == MISSING]:
            detail = f"{', '.join(missing)}: {_install(EXTRAS[name])}"
            findings.append(Finding(name, MISSING, detail))
            continue
        findings.append(_check_engine(name, network, graph, photo, expected))
    return tuple(findings)


def _check_engine(
    name: str,
    network: StyleNetwork,
    graph: Callable[[], bytes],
    photo: Tensor,
    expected: Tensor,
) -> Finding:
    try:
        engine: Engine
        if name == "torch":
            engine = TorchEngine(copy.deepcopy(network))
        else:
            engine = GRAPH_ENGINES[name](graph, AUTO)
        off = 255 * float((engine(photo) - expected).abs().max())
    except Exception as error:  # of an engine or a driver: all kinds
        return Finding(name, BROKEN, _one_line(error))
    where = f"{engine.device}, {engine.precision}"
    if not off <= MAX_LEVELS[engine.precision]:  # not ">": that would let nan pass
        return Finding(name, BROKEN, f"{where}: off by {off:.1f} of 255 levels from torch")
    return Finding(name, OK, f"{where}: {off:.2f} of 255 levels from torch in float32")


def _one_line(error: Exception) -> str:
    """Return the kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
