"""An engine runs a network. All engines have the call of this module.

Each engine has a module of its own: torch_engine.py, onnxruntime_engine.py, openvino_engine.py.
opening.py chooses one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faststyle.errors import ImageError
from faststyle.networks.network import check_size

Rgb = NDArray[np.uint8]  # (H, W, 3)
# Gives an ONNX file in memory, or an exported file. Engines call it after they have found their
# device, because a conversion takes seconds.
Graph = Callable[[], bytes | Path]


class Engine(Protocol):
    """A network that is ready to run.

    `device` is cpu, cuda, mps, xpu or npu. `precision` is float32, bf16 or f16, or int8 for a file
    that was exported so. `size` is the height and width that a file was exported for; None takes
    images of any size, and batches.
    """

    name: str
    device: str
    precision: str
    size: tuple[int, int] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the stylized images, on the device that the images came from.

        Both are float32 RGB, (B, 3, H, W), in [0, 1]. Each side has 32 pixels or more. Raises:
        ImageError.
        """
        ...

    def frame(self, rgb: Rgb) -> Rgb:
        """Return the stylized frame of a video, both (H, W, 3) in 8 bits, as a new array.

        Raises: ImageError.
        """
        photo = torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div_(255)
        out: Rgb = self(photo)[0].mul_(255).round_().byte().permute(1, 2, 0).contiguous().numpy()
        return out


def check_images(images: Tensor, size: tuple[int, int] | None = None) -> None:
    """Check the type and shape of a batch, and the size that a file was exported for, if any.

    Raises: ValueError; ImageError for small images and for another size.
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ValueError(
            f"images are float32 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    check_fixed_size(images.shape[-2], images.shape[-1], size)


def check_fixed_size(height: int, width: int, size: tuple[int, int] | None) -> None:
    """Raise ImageError for a small image, or one that is not of the `size` of an exported file."""
    if size is None:
        check_size(height, width)
    elif (height, width) != size:
        raise ImageError(
            f"an image of {height}x{width} pixels: this file was exported for {size[0]}x{size[1]} "
            "only; use the checkpoint, or an export without `size`"
        )


def engine_line(engine: Engine) -> str:
    """Return the line that describes an engine: "engine: openvino, cpu, float32"."""
    return f"engine: {engine.name}, {engine.device}, {engine.precision}"
