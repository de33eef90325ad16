"""How a network is to be run: the names of engines, devices and precisions."""

from __future__ import annotations

from pathlib import Path

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
PRECISIONS = ("auto", "float32", "bf16", "f16")
EXTRAS = {"onnxruntime": "onnx", "openvino": "fast"}  # what to install for an engine
# The engines that read an exported file, by its suffix; the fastest comes first.
READERS = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}


def is_exported(path: Path) -> bool:
    """Return whether a file was exported for engines; other files are checkpoints."""
    return path.suffix in READERS
