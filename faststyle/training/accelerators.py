"""The accelerator of a run: device, precision and processes, through Hugging Face Accelerate."""

from __future__ import annotations

import os
import shutil

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from faststyle.devices import find_device, find_precision
from faststyle.errors import DeviceError
from faststyle.training.recipe import Recipe

COMPILERS = ("c++", "g++", "clang++", "cl")


def open_accelerator(recipe: Recipe, device: str) -> Accelerator:
    """Return the accelerator of a run, on the device and in the precision that it asks for.

    Raises: DeviceError.
    """
    wanted = find_device(device) if device != "auto" else _auto_device()
    mixed = {"bf16": "bf16", "float32": "no"}
    accelerator = Accelerator(
        cpu=wanted.type == "cpu",  # always: processes on CPUs find each other only if told so
        mixed_precision=mixed[find_precision(recipe.precision, wanted)],
        gradient_accumulation_steps=recipe.accumulate,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes < started:
        raise DeviceError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes}: "
            "name a `device`"
        )
    if accelerator.device.type != wanted.type:
        raise DeviceError(
            f"`device` {device}: Accelerate took {accelerator.device.type}; is it set to another?"
        )
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: style needs no more digits
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # crops are all of one size
    return accelerator


def release_accelerator() -> None:
    """Forget the accelerator of this process, so that the next one may differ in precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile can work there: on a CPU it needs a C++ compiler."""
    return device.type != "cpu" or any(map(shutil.which, COMPILERS))


def agreed_signal(number: int, accelerator: Accelerator) -> int:
    """Return the signal that any process got, 0 for none: a state is saved by all or by none."""
    if accelerator.num_processes == 1:
        return number
    flag = torch.tensor([number], device=accelerator.device)
    return int(accelerator.gather(flag).max())


def _auto_device() -> torch.device:
    from accelerate.utils import is_torch_xla_available

    return torch.device("xla") if is_torch_xla_available() else find_device("auto")
