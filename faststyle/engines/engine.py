"""What runs a network: torch, ONNX Runtime or OpenVINO, behind one call.

What it is not: pictures (stylize/stylizer.py), conversion (engines/graph.py) or files for people
(export.py). Nothing falls back silently: a device, precision or engine that was asked for and is
missing is an error.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faststyle.checkpoint import About, load_checkpoint
from faststyle.devices import DEVICES, find_device, find_precision, has_fast_bf16, set_threads
from faststyle.engines.graph import (
    INPUT,
    NEEDS,
    cache_file,
    cached_graph,
    graph_properties,
    to_onnx,
)
from faststyle.errors import CheckpointError, DeviceError, did_you_mean
from faststyle.extras import require
from faststyle.networks.network import check_size

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bf16", "f16")
EXTRAS = {"onnxruntime": "onnx", "openvino": "fast"}  # what to install for an engine
# The engines of a device, fastest first; measured on a CPU (docs/real-time.md).
FASTEST = {
    "cpu": ("openvino", "onnxruntime", "torch"),
    "cuda": ("torch", "onnxruntime"),
    "mps": ("torch", "onnxruntime"),
    "xpu": ("openvino", "torch"),
    "npu": ("openvino",),
}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}
OPENVINO_DEVICES = {"cpu": "CPU", "xpu": "GPU", "npu": "NPU"}
# who reads exported files, fastest first
READERS = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}

Rgb = NDArray[np.uint8]  # (H, W, 3)
# an ONNX file in memory, or an exported file; called once the device is known
Graph = Callable[[], bytes | Path]


class Engine(Protocol):
    """A network that is ready to run.

    `device` is a name that `--device` takes; `precision` float32, bf16, f16, or int8 for a file
    that was exported so.
    """

    name: str
    device: str
    precision: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return the stylized images, on the device that they came from.

        They are float32 RGB, (B, 3, H, W), in [0, 1], with sides of 16 pixels or more. Raises:
        ImageError.
        """
        ...

    def frame(self, rgb: Rgb) -> Rgb:
        """Return a stylized frame of a video, (H, W, 3) in 8 bits as it came, in an array of its
        own.

        Raises: ImageError.
        """
        photo = torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div_(255)
        out: Rgb = self(photo)[0].mul_(255).round_().byte().permute(1, 2, 0).contiguous().numpy()
        return out


def engine_line(engine: Engine) -> str:
    """Return what is printed of an engine: "engine: openvino, cpu, float32"."""
    return f"engine: {engine.name}, {engine.device}, {engine.precision}"


def open_engine(
    source: Path | tuple[nn.Module, About],
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
    convert: bool = True,
) -> Engine:
    """Return what runs a checkpoint, an exported .onnx or .xml file, or a network with what is
    known of it.

    "auto" is the fastest engine that is installed and works, on the accelerator of this machine if
    torch knows one, in bf16 where the hardware has it. The first start converts the network, which
    is kept for the next; without `convert`, auto leaves alone what would have to, for it takes
    longer than a few pictures do. `announce` is told of what takes time, and of an engine that is
    installed and does not work. Raises: CheckpointError; DeviceError for what is unknown, not
    installed, or not there.

    Example:
        >>> engine = open_engine(Path("checkpoints/nocturne.safetensors"))
        >>> engine(torch.rand(1, 3, 480, 848)).shape
        torch.Size([1, 3, 480, 848])
    """
    _check_name("--engine", engine, ENGINES)
    _check_name("--device", device, DEVICES)
    _check_name("--precision", precision, PRECISIONS)
    set_threads(threads)
    if isinstance(source, Path) and source.suffix in READERS:
        return _open_exported(source, engine, device, precision, threads)
    network: nn.Module
    if isinstance(source, Path):
        network, about = load_checkpoint(source)
        graph: Graph = functools.cache(lambda: cached_graph(network, about, source, announce))
    else:
        network, about = source
        graph = functools.cache(lambda: to_onnx(network, graph_properties(about, "unnamed")))
    if engine != "auto":
        return _open(engine, network, graph, device, precision, threads)
    device = _accelerator() if device == "auto" else device
    ready = convert or (isinstance(source, Path) and cache_file(network, source).is_file())
    names = [name for name in FASTEST[device] if _is_installed(name) and (ready or name == "torch")]
    refused: list[str] = []
    for name in names or FASTEST[device][:1]:
        try:
            opened = _open(name, network, graph, device, precision, threads)
        except DeviceError as error:
            refused.append(f"{name}: {error}")
            continue
        for line in refused:
            announce(f"not used here: {line}")
        return opened
    raise DeviceError("; ".join(refused))


def _check_name(option: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise DeviceError(f"{option} {name}: unknown.{did_you_mean(name, allowed)}")


def _open_exported(
    file: Path, engine: str, device: str, precision: str, threads: int | None
) -> Engine:
    names = [name for name in READERS[file.suffix] if engine in ("auto", name)]
    if not names:
        raise DeviceError(
            f"--engine {engine} does not read {file.suffix} files; {' or '.join(READERS[file.suffix])} does"
        )
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    name = next((n for n in names if importlib.util.find_spec(n)), names[0])
    return GRAPH_ENGINES[name](lambda: file, device, precision, threads)


def _open(
    name: str, network: nn.Module, graph: Graph, device: str, precision: str, threads: int | None
) -> Engine:
    if name == "torch":
        return TorchEngine(network, device, precision)
    require(*NEEDS, extra=EXTRAS[name])
    return GRAPH_ENGINES[name](graph, device, precision, threads)


def _is_installed(name: str) -> bool:
    """Return whether an engine is worth trying on this machine."""
    if name == "openvino" and platform.machine().lower() not in ("x86_64", "amd64"):
        return False  # it runs on ARM too, where nobody has measured it
    return name == "torch" or all(importlib.util.find_spec(package) for package in (name, *NEEDS))


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found and found.type in FASTEST else "cpu"


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ValueError(
            f"images are float32 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    check_size(*images.shape[-2:])


class TorchEngine(Engine):
    """The network itself, in channels last."""

    name = "torch"

    def __init__(self, network: nn.Module, device: str = "auto", precision: str = "auto") -> None:
        self._device = find_device(device)
        self.device = self._device.type
        self.precision = find_precision(precision, self._device)
        if self.precision == "bf16" and not has_fast_bf16(self._device):
            raise DeviceError(
                f"--precision bf16: {self.device} has none in hardware; float32 is faster here"
            )
        if self.precision == "f16" and self.device == "cpu":
            raise DeviceError("--precision f16: not on CPUs with torch; use float32")
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        _check_images(images)
        dtype = torch.float16 if self.precision == "f16" else torch.bfloat16
        with (
            torch.no_grad(),
            torch.autocast(self.device, dtype, enabled=self.precision != "float32"),
        ):
            out: Tensor = self._network(images.to(self._device, memory_format=torch.channels_last))
        return out.float().clamp(0, 1).to(images.device).contiguous()


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime, in float32."""

    name = "onnxruntime"

    def __init__(
        self,
        graph: Graph,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        require("onnxruntime", extra=EXTRAS[self.name])
        ort = importlib.import_module("onnxruntime")
        there = ort.get_available_providers()
        if device == "auto":
            device = "cuda" if PROVIDERS["cuda"] in there and _accelerator() == "cuda" else "cpu"
        provider = PROVIDERS.get(device)
        if provider not in there:
            names = [name for name, known in PROVIDERS.items() if known in there]
            raise DeviceError(
                f"--device {device}: this build of ONNX Runtime has {', '.join(names)} only"
            )
        if precision not in ("auto", "float32"):
            raise DeviceError(f"--precision {precision}: ONNX Runtime runs float32 only")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads or 0  # 0: all cores
        file = graph()
        try:
            self._session = ort.InferenceSession(
                str(file) if isinstance(file, Path) else file, options, [provider]
            )
        except Exception as error:  # its errors have no base of their own
            raise DeviceError(
                f"ONNX Runtime cannot run this network on {device}: {error}"
            ) from error
        if self._session.get_providers()[0] != provider:  # it falls back to the CPU without a word
            raise DeviceError(f"--device {device}: ONNX Runtime could not start {provider}")
        self.device = device
        self.precision = "float32"

    def __call__(self, images: Tensor) -> Tensor:
        _check_images(images)
        (out,) = self._session.run(None, {INPUT: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(out).clamp_(0, 1).to(images.device)


class OpenVINOEngine(Engine):
    """OpenVINO on CPUs, and on Intel's GPUs and NPUs.

    One graph serves all sizes. A size that comes twice in a row gets one of its own: that takes 0.3
    s, and then saves 7 to 10 % of each image, so it pays for films and folders of one camera only.
    NPUs know fixed sizes alone. Frames of a video get one that takes and gives 8 bits, in the order
    in which they lie in memory.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Graph,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._ov, self._core = import_openvino(), openvino_core()
        self.device = "cpu" if device == "auto" else device
        self._target = OPENVINO_DEVICES.get(self.device, "")
        there = [name for name, known in OPENVINO_DEVICES.items() if known in self._known_devices()]
        if self.device not in there:
            raise DeviceError(f"--device {device}: OpenVINO finds {', '.join(there)} only")
        self.precision = self._find_precision(precision)
        types = {"float32": "f32", "bf16": "bf16", "f16": "f16"}
        self._config: dict[str, Any] = {}
        if self.device != "npu":  # which computes in f16, and cannot be asked
            self._config["INFERENCE_PRECISION_HINT"] = types[self.precision]
        if self.device == "cpu" and threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        file = graph()
        try:
            self._model = self._core.read_model(file)
            self._any_size = None if self.device == "npu" else self._compile(self._model)
        except RuntimeError as error:
            raise DeviceError(
                f"OpenVINO cannot run this network on {self.device}: {error}"
            ) from error
        self._one_size: Any = None
        self._one_shape: tuple[int, ...] = ()
        self._last_shape: tuple[int, ...] = ()
        self._of_frames: Any = None
        self._frame_shape: tuple[int, ...] = ()
        if self._model.has_rt_info(["faststyle", "precision"]):
            self.precision = str(self._model.get_rt_info(["faststyle", "precision"]).value)

    def __call__(self, images: Tensor) -> Tensor:
        _check_images(images)
        array = images.detach().cpu().contiguous().numpy()
        request = self._request(array.shape)
        request.infer({0: self._ov.Tensor(array, shared_memory=True)})
        # A copy: the next call overwrites the buffer of the request.
        return torch.from_numpy(request.get_output_tensor(0).data).clamp(0, 1).to(images.device)

    def frame(self, rgb: Rgb) -> Rgb:
        """Return the stylized frame; the first of a size takes about a second more."""
        check_size(*rgb.shape[:2])
        if rgb.shape != self._frame_shape:
            self._of_frames = self._compile(self._frame_model(*rgb.shape[:2]))
            self._frame_shape = rgb.shape
        frame = np.ascontiguousarray(rgb)[None]
        self._of_frames.infer({0: self._ov.Tensor(frame, shared_memory=True)})
        out: Rgb = self._of_frames.get_output_tensor(0).data[0].copy()
        return out

    def _frame_model(self, h: int, w: int) -> Any:
        """Return the model for frames of one size."""
        model = self._model.clone()
        model.reshape([1, 3, h, w])
        steps = self._ov.preprocess.PrePostProcessor(model)
        u8 = self._ov.Type.u8
        f32 = self._ov.Type.f32
        ops = importlib.import_module("openvino.opset13")
        steps.input().tensor().set_element_type(u8).set_layout(self._ov.Layout("NHWC"))
        steps.input().model().set_layout(self._ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(f32).scale(255.0)
        steps.output().model().set_layout(self._ov.Layout("NCHW"))
        after = steps.output().postprocess().convert_layout(self._ov.Layout("NHWC"))
        after.custom(
            lambda out: ops.add(ops.multiply(out, np.float32(255)), np.float32(0.5)).output(0)
        )
        after.convert_element_type(u8)  # which cuts off
        return steps.build()

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape != self._one_shape and (shape == self._last_shape or self._any_size is None):
            if self._any_size is not None:
                self._any_size.get_compiled_model().release_memory()
            self._model.reshape(list(shape))
            self._one_size = self._compile(self._model)
            self._one_shape = shape
        self._last_shape = shape
        return self._one_size if shape == self._one_shape else self._any_size

    def _compile(self, model: Any) -> Any:
        """Return a request for inference. Raises: DeviceError when the plugin took another precision than was asked."""
        compiled = self._core.compile_model(model, self._target, self._config)
        asked = self._config.get("INFERENCE_PRECISION_HINT")
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string() if asked else None
        if got != asked:
            raise DeviceError(f"--precision {self.precision}: this {self.device} computes in {got}")
        return compiled.create_infer_request()

    def _known_devices(self) -> set[str]:
        """Return CPU, GPU and NPU as far as they are there; the second GPU is "GPU.1"."""
        return {name.split(".")[0] for name in self._core.available_devices}

    def _find_precision(self, precision: str) -> str:
        """Return the precision for "auto", and check one that was asked for. Raises: DeviceError."""
        has_bf16 = "BF16" in self._core.get_property(self._target, "OPTIMIZATION_CAPABILITIES")
        if self.device == "npu":
            if precision not in ("auto", "f16"):
                raise DeviceError(f"--precision {precision}: NPUs compute in f16")
            return "f16"
        if precision == "auto":  # not f16 on GPUs: nobody has looked at the pictures yet
            return "bf16" if has_bf16 and self.device == "cpu" else "float32"
        # emulated, it is several times slower than float32
        if precision == "bf16" and not has_bf16:
            raise DeviceError(
                f"--precision bf16: this {self.device} has none in hardware; float32 is faster here"
            )
        return precision


def import_openvino() -> Any:
    """Return the module, or raise DeviceError with the command that installs it.

    OpenVINO and NNCF report each import and conversion to Google Analytics, unless this package
    cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    require("openvino", extra=EXTRAS["openvino"])
    return importlib.import_module("openvino")


@functools.cache
def openvino_core() -> Any:
    """Return the one core of this process, which is never let go.

    Its plugin for CPUs puts the stack that signals are handled on in place of the one before, and
    gives that back when a core goes: of two cores that go in the order in which they came, the
    second leaves freed memory there, in which the next Ctrl-C ends in a segmentation fault
    (OpenVINO 2026.4).
    """
    core = import_openvino().Core()
    core.set_property({"ENABLE_MMAP": False})  # a file that is mapped could not be written again
    return core


GRAPH_ENGINES: dict[str, Callable[[Graph, str, str, int | None], Engine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVINOEngine,
}
