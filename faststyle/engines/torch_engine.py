"""The network itself, run by torch: on every device that torch knows, with nothing to convert."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faststyle.devices import find_device, find_precision, has_fast_bf16
from faststyle.engines.engine import Engine, check_images
from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import DeviceError


class TorchEngine(Engine):
    """A network in channels last, the order of memory in which convolutions are fastest."""

    name = "torch"

    def __init__(self, network: nn.Module, options: EngineOptions = AUTO) -> None:
        self._device = find_device(options.device)
        self.device = self._device.type
        self.precision = find_precision(options.precision, self._device)
        if self.precision == "bf16" and not has_fast_bf16(self._device):
            raise DeviceError(
                f"`precision` bf16: {self.device} has none in hardware; float32 is faster here"
            )
        if self.precision == "f16" and self.device == "cpu":
            raise DeviceError("`precision` f16: not on CPUs with torch; use float32")
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the stylized images, (B, 3, H, W). Raises: ImageError."""
        check_images(images)
        # The type counts only where autocast is on.
        dtype = torch.float16 if self.precision == "f16" else torch.bfloat16
        with (
            torch.no_grad(),
            torch.autocast(self.device, dtype, enabled=self.precision != "float32"),
        ):
            out: Tensor = self._network(images.to(self._device, memory_format=torch.channels_last))
        return out.float().clamp(0, 1).to(images.device).contiguous()
