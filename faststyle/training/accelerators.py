"""The accelerator of a run: device, precision and processes, through Hugging Face Accelerate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, nn

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
    _check_launch()
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
    if accelerator.device.type == "xla":
        _fill_gaps_of_xla()
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: style needs no more digits
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # crops are all of one size
    return accelerator


def release_accelerator() -> None:
    """Forget the accelerator of this process, so that the next one may differ in precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes, without a wait."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accelerator.device.type == "xla":
        import torch_xla.core.xla_model as xm

        # Accelerate's `reduce` would cut the step into three programs.
        xm.all_reduce("sum", gradients, scale=1 / accelerator.num_processes)
        return
    mean = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def mark_averaged(optimizer: AcceleratedOptimizer) -> None:
    """Tell Accelerate that the gradients are means over all processes already.

    It keeps one mark for all optimizers, and each step takes it off. So of several optimizers it
    would average the first one's gradients, clip, and then average those of the others.
    """
    optimizer.gradient_state.is_xla_gradients_synced = True


def count_on_host(optimizer: torch.optim.Optimizer) -> None:
    """Move Adam's counts of steps to the CPU: on the device, each step would wait for each of them.

    That is where `load_state` puts them, with several GPUs and on XLA.
    """
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].cpu()


def run_program(device: torch.device) -> None:
    """Send all that was computed so far to the device, as one program, where it is XLA's.

    XLA collects operations and compiles what it has when a value is asked for. Cut at the same
    places, it is the same program at each step, which is compiled once. It does not wait.
    """
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


def as_data(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without a wait.

    For XLA it is data there. Made there, it would be a constant of the program, and the next value
    another program.
    """
    return values.to(device, non_blocking=True)


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile can work there: on a CPU it needs a C++ compiler."""
    return device.type != "cpu" or any(map(shutil.which, COMPILERS))


def agreed_signal(number: int, accelerator: Accelerator) -> int:
    """Return the signal that any process got, 0 for none: a state is saved by all or by none."""
    if accelerator.num_processes == 1:
        return number
    flag = torch.tensor([number], device=accelerator.device)
    return int(accelerator.gather(flag).max())


@cache
def _fill_gaps_of_xla() -> torch.library.Library:
    """Compute on XLA what it has no operation for; else the host would wait at each step for it.

    That is `vdot`, in torch's spectral normalisation. Of real numbers it is `dot`.
    """
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("vdot", torch.dot, "XLA")  # type: ignore[no-untyped-call]
    return library  # it is undone when nobody holds it


def gather_list(items: list[Any], accelerator: Accelerator) -> list[Any]:
    """Return the items of all processes, in the order of the processes."""
    if accelerator.num_processes == 1:
        return items
    if accelerator.device.type == "xla":  # Accelerate's `gather_object` knows no XLA
        import torch_xla.core.xla_model as xm

        lists = xm.mesh_reduce("faststyle", items, list)
        return [item for part in lists for item in part]
    return list(gather_object(items))


def _check_launch() -> None:
    """Raise DeviceError where `accelerate launch` was asked for processes, and started one.

    It starts several by mpirun only on CPUs, and where there is one GPU. It sets the address at
    which they would meet, but no rank: launchers that start several set it, or MPI's variables.
    """
    asked = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    ranks = {"RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}
    if asked and not ranks & os.environ.keys():
        raise DeviceError(
            "accelerate launch was asked for several processes and started one; start them with: "
            "torchrun --nproc_per_node PROCESSES train.py ..."
        )


def _auto_device() -> torch.device:
    from accelerate.utils import is_torch_xla_available

    return torch.device("xla") if is_torch_xla_available() else find_device("auto")
