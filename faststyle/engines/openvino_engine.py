"""OpenVINO: runs the ONNX graph of a network on CPUs, and on Intel's GPUs and NPUs."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faststyle.engines.engine import Engine, Graph, Rgb, check_fixed_size, check_images
from faststyle.engines.options import AUTO, EXTRAS, EngineOptions
from faststyle.errors import DeviceError
from faststyle.extras import require

PLUGINS = {"cpu": "CPU", "xpu": "GPU", "npu": "NPU"}  # of OpenVINO, by our names of devices
# What an output holds before it is painted. Where memory is full, a model of any size ends without
# an error and without a picture (OpenVINO 2026.4).
NOTHING = np.float32(-1e30)
LONGEST_ROW = 64  # images of one size that pay for a graph of their own
TYPES = {"float32": "f32", "bf16": "bf16", "f16": "f16"}


class OpenVINOEngine(Engine):
    """A network that OpenVINO has compiled.

    One graph serves all sizes. A size that comes twice in a row gets a graph of its own. That takes
    0.3 s and then saves 7 to 10 % of each image, so it pays for films and for folders of one
    camera. Where sizes take turns, as in batches of a server, it would not: from the third graph
    on, the row must be twice as long each time. NPUs take fixed sizes only. Frames of a video get a
    graph that takes and gives 8 bits, (H, W, 3), so that nothing is converted around it.
    """

    name = "openvino"

    def __init__(self, graph: Graph, options: EngineOptions = AUTO) -> None:
        self._ov = import_openvino()
        self._core = openvino_core()
        self.device = "cpu" if options.device == "auto" else options.device
        self._plugin = PLUGINS.get(self.device, "")
        there = [name for name, plugin in PLUGINS.items() if plugin in self._known_plugins()]
        if self.device not in there:
            raise DeviceError(f"`device` {self.device}: OpenVINO finds {', '.join(there)} only")
        self.precision = self._find_precision(options.precision)
        self._config = self._make_config(options.threads)
        file = graph()
        try:
            self._model = self._core.read_model(file)
            self._any_size = None if self.device == "npu" else self._compile(self._model)
        except RuntimeError as error:
            raise DeviceError(
                f"OpenVINO cannot run this network on {self.device}: {error}"
            ) from error
        shape = self._model.input(0).partial_shape
        self.size = (shape[2].get_length(), shape[3].get_length()) if shape.is_static else None
        # Requests for one size and for frames are compiled when such images come.
        self._one_size: Any = None
        self._one_shape: tuple[int, ...] = ()
        self._last_shape: tuple[int, ...] = ()
        self._in_a_row = 0  # images of the last shape
        self._row_needed = 1  # that a shape must come in a row for a graph of its own, if not 2
        self._of_frames: Any = None
        self._frame_shape: tuple[int, ...] = ()
        # An int8 export says so; only its float parts have the precision that was asked for.
        if self._model.has_rt_info(["faststyle", "precision"]):
            self.precision = str(self._model.get_rt_info(["faststyle", "precision"]).value)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the stylized images, (B, 3, H, W). Raises: ImageError."""
        check_images(images, self.size)
        if self.size and len(images) > 1:  # a fixed size is that of one image
            return torch.cat([self(image[None]) for image in images])
        array = images.detach().cpu().contiguous().numpy()
        request = self._request(array.shape)
        out = np.full(array.shape, NOTHING, np.float32)
        request.set_output_tensor(0, self._ov.Tensor(out, shared_memory=True))
        request.infer({0: self._ov.Tensor(array, shared_memory=True)})  # reads without a copy
        if out.flat[-1] == NOTHING:
            request.get_compiled_model().release_memory()
            raise MemoryError("OpenVINO painted nothing: it can't allocate memory")
        return torch.from_numpy(out).clamp_(0, 1).to(images.device)

    def frame(self, rgb: Rgb) -> Rgb:
        """Return the stylized frame; the first frame of a size takes about a second more."""
        check_fixed_size(rgb.shape[0], rgb.shape[1], self.size)
        if rgb.shape != self._frame_shape:
            self._of_frames = self._compile(self._frame_model(*rgb.shape[:2]))
            self._frame_shape = rgb.shape
        frame = np.ascontiguousarray(rgb)[None]
        self._of_frames.infer({0: self._ov.Tensor(frame, shared_memory=True)})
        out: Rgb = self._of_frames.get_output_tensor(0).data[0].copy()
        return out

    def _frame_model(self, h: int, w: int) -> Any:
        """Return the model for frames of one size: 8 bits in, 8 bits out, both (H, W, 3)."""
        model = self._model.clone()
        model.reshape([1, 3, h, w])
        steps = self._ov.preprocess.PrePostProcessor(model)
        u8 = self._ov.Type.u8
        f32 = self._ov.Type.f32
        ops = require("openvino.opset13", extra=EXTRAS[self.name])
        steps.input().tensor().set_element_type(u8).set_layout(self._ov.Layout("NHWC"))
        steps.input().model().set_layout(self._ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(f32).scale(255.0)
        steps.output().model().set_layout(self._ov.Layout("NCHW"))
        after = steps.output().postprocess().convert_layout(self._ov.Layout("NHWC"))
        # The conversion to u8 rounds down, so a half is added first.
        after.custom(
            lambda out: ops.add(ops.multiply(out, np.float32(255)), np.float32(0.5)).output(0)
        )
        after.convert_element_type(u8)
        return steps.build()

    def _request(self, shape: tuple[int, ...]) -> Any:
        """Return the request for a shape; compile for a shape that comes twice in a row."""
        self._in_a_row = self._in_a_row + 1 if shape == self._last_shape else 1
        often = self._in_a_row >= max(2, self._row_needed)
        if shape != self._one_shape and (often or self._any_size is None):
            # Its buffers of the last size may be large, and are not used for a while.
            if self._any_size is not None:
                self._any_size.get_compiled_model().release_memory()
            self._model.reshape(list(shape))
            self._one_size = self._compile(self._model)
            self._one_shape = shape
            self._row_needed = min(2 * self._row_needed, LONGEST_ROW)
        self._last_shape = shape
        return self._one_size if shape == self._one_shape else self._any_size

    def _compile(self, model: Any) -> Any:
        """Return a request for inference. Raises: DeviceError when the precision is another."""
        compiled = self._core.compile_model(model, self._plugin, self._config)
        # A plugin may take another precision than the hint without a word.
        asked = self._config.get("INFERENCE_PRECISION_HINT")
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string() if asked else None
        if got != asked:
            raise DeviceError(
                f"`precision` {self.precision}: this {self.device} computes in {got}; "
                "leave it out, or name that one"
            )
        return compiled.create_infer_request()

    def _make_config(self, threads: int | None) -> dict[str, Any]:
        """Return the settings that models are compiled with."""
        config: dict[str, Any] = {}
        if self.device != "npu":  # NPUs compute in f16 and take no hint
            config["INFERENCE_PRECISION_HINT"] = TYPES[self.precision]
        if self.device == "cpu" and threads:
            config["INFERENCE_NUM_THREADS"] = threads
        return config

    def _known_plugins(self) -> set[str]:
        """Return those of CPU, GPU and NPU that are there; the second GPU is "GPU.1"."""
        return {name.split(".")[0] for name in self._core.available_devices}

    def _find_precision(self, precision: str) -> str:
        """Return the precision that a name means here. Raises: DeviceError."""
        has_bf16 = "BF16" in self._core.get_property(self._plugin, "OPTIMIZATION_CAPABILITIES")
        if self.device == "npu":
            if precision not in ("auto", "f16"):
                raise DeviceError(f"`precision` {precision}: NPUs compute in f16")
            return "f16"
        if precision == "auto":  # never f16 on GPUs: nobody has looked at the pictures yet
            return "bf16" if has_bf16 and self.device == "cpu" else "float32"
        # Emulated bf16 is several times slower than float32.
        if precision == "bf16" and not has_bf16:
            raise DeviceError(
                f"`precision` bf16: this {self.device} has none in hardware; float32 is faster here"
            )
        return precision


def import_openvino() -> Any:
    """Return the package OpenVINO, without its telemetry. Raises: DeviceError.

    OpenVINO and NNCF report each import and conversion to Google Analytics, unless
    openvino_telemetry cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", extra=EXTRAS["openvino"])


@functools.cache
def openvino_core() -> Any:
    """Return the one core of this process, which is never let go.

    OpenVINO's plugin for CPUs sets a stack on which signals are handled, and puts back the stack
    before it when a core goes. With two cores that go in the order in which they came, the second
    puts back freed memory, and the next Ctrl-C is a segmentation fault (OpenVINO 2026.4).
    """
    core = import_openvino().Core()
    core.set_property({"ENABLE_MMAP": False})  # a file that is mapped could not be written again
    return core
