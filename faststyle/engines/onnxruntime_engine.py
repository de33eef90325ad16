"""ONNX Runtime: runs the ONNX graph of a network, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faststyle.devices import find_device
from faststyle.engines.engine import Engine, Graph, check_images
from faststyle.engines.graph import INPUT
from faststyle.engines.options import AUTO, EXTRAS, EngineOptions
from faststyle.errors import DeviceError
from faststyle.extras import require

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}
LOG_ERRORS_ONLY = 3
ALL_CORES = 0


class OnnxRuntimeEngine(Engine):
    """A session of ONNX Runtime. It takes images of any size, unless its file has a fixed one."""

    name = "onnxruntime"
    precision = "float32"

    def __init__(self, graph: Graph, options: EngineOptions = AUTO) -> None:
        ort = require("onnxruntime", extra=EXTRAS[self.name])
        self.device = _find_device(options.device, ort.get_available_providers())
        if options.precision not in ("auto", "float32"):
            raise DeviceError(f"`precision` {options.precision}: ONNX Runtime runs float32 only")
        provider = PROVIDERS[self.device]
        self._session = _open_session(ort, graph(), provider, options.threads)
        # ONNX Runtime falls back to the CPU without a word.
        if self._session.get_providers()[0] != provider:
            raise DeviceError(f"`device` {self.device}: ONNX Runtime could not start {provider}")
        (given,) = self._session.get_inputs()
        h, w = given.shape[2:]  # names where they are left open
        self.size = (h, w) if isinstance(h, int) and isinstance(w, int) else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the stylized images, (B, 3, H, W). Raises: ImageError."""
        check_images(images, self.size)
        if self.size and len(images) > 1:  # a fixed size is that of one image
            return torch.cat([self(image[None]) for image in images])
        (out,) = self._session.run(None, {INPUT: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(out).clamp_(0, 1).to(images.device)


def _find_device(name: str, available: list[str]) -> str:
    """Return the device for a name, given the available providers. Raises: DeviceError."""
    if name == "auto":
        has_cuda = PROVIDERS["cuda"] in available and find_device("auto").type == "cuda"
        name = "cuda" if has_cuda else "cpu"
    if PROVIDERS.get(name) not in available:
        known = ", ".join(device for device, other in PROVIDERS.items() if other in available)
        raise DeviceError(f"`device` {name}: this build of ONNX Runtime has {known} only")
    return name


def _open_session(ort: Any, graph: bytes | Path, provider: str, threads: int | None) -> Any:
    """Return a session for a graph. Raises: DeviceError when ONNX Runtime refuses the graph."""
    settings = ort.SessionOptions()
    settings.log_severity_level = LOG_ERRORS_ONLY
    settings.intra_op_num_threads = threads or ALL_CORES
    model = str(graph) if isinstance(graph, Path) else graph
    try:
        return ort.InferenceSession(model, settings, [provider])
    except Exception as error:  # the errors of ONNX Runtime have no base class of their own
        device = next(name for name, known in PROVIDERS.items() if known == provider)
        raise DeviceError(f"ONNX Runtime cannot run this network on {device}: {error}") from error
