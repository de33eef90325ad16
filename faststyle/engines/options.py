"""How a network is to be run: engine, device, precision and threads, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faststyle.devices import DEVICES
from faststyle.errors import DeviceError, did_you_mean

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bf16", "f16", "int8")
EXTRAS = {"onnxruntime": "onnx", "openvino": "fast"}  # the extra to install for an engine
# The engines that read an exported file, by its suffix; the fastest comes first.
READERS = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}


@dataclass(frozen=True)
class EngineOptions:
    """Engine, device, precision and threads for a network. `open_engine` chooses for "auto".

    `engine`, `device` and `precision` are names of `ENGINES`, `DEVICES` and `PRECISIONS`. `threads`
    are those of the CPU; None leaves their number to the engine. With `convert`, auto may take an
    engine that the network has to be converted for. That takes longer than a few pictures do, so it
    is for videos and for many pictures. Raises: DeviceError for unknown names, and for int8 with
    anything but OpenVINO on the CPU.

    Example:
        >>> EngineOptions(device="cpu", precision="float32")
    """

    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    convert: bool = False

    def __post_init__(self) -> None:
        _check_name("engine", self.engine, ENGINES)
        _check_name("device", self.device, DEVICES)
        _check_name("precision", self.precision, PRECISIONS)
        runs_int8 = self.engine in ("auto", "openvino") and self.device in ("auto", "cpu")
        if self.precision == "int8" and not runs_int8:
            raise DeviceError(
                "`precision` int8: OpenVINO on the CPU only, "
                f"not `engine` {self.engine} `device` {self.device}"
            )


def is_exported(path: Path) -> bool:
    """Return whether a file was exported for engines; other files are checkpoints."""
    return path.suffix in READERS


def _check_name(field: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise DeviceError(f"`{field}` {name}: unknown.{did_you_mean(name, allowed)}")


AUTO = EngineOptions()
