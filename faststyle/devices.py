"""The device and the precision of the work: chosen by name, never replaced in silence."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from functools import cache
from pathlib import Path

import torch

from faststyle.errors import DeviceError, FaststyleError, did_you_mean

# parameters of mallopt, from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
# Words of errors for too little memory, of those allocators that have no class of error for it:
# torch on CPUs, OpenVINO, ONNX Runtime, oneDNN and Level Zero.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
    "allocate memory",
    "out of memory",
    "out_of_host_memory",
    "out_of_device_memory",
    "could not create a memory",
)
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu")


def find_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the accelerator of this machine, or else the CPU.

    Raises: DeviceError for an unknown name, or a device that this machine does not have.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}.{did_you_mean(name, DEVICES)}")
    # check_available, since a build for CUDA also runs on machines without a GPU
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "cpu" or (name == "auto" and found is None):
        return torch.device("cpu")
    if found is None or name not in ("auto", found.type):
        raise DeviceError(
            f"`device` {name}: not there; this machine has cpu"
            f"{f' and {found.type}' if found else ' only'} (torch {torch.__version__})"
        )
    return found


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: job schedulers give away some of the cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads; None leaves it to torch. Raises: DeviceError below 1."""
    if count is None:
        return
    if count < 1:
        raise DeviceError(f"`threads` must be 1 or more, got {count}")
    torch.set_num_threads(count)


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, so that the next tensors get it.

    By default each large tensor comes from the system anew, page by page and zeroed: a seventh of a
    step's time at 512 x 512 pixels, on 2 cores. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware.

    Emulated bfloat16 is several times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "xla":
        return True
    if device.type == "cpu":
        # Without these, oneDNN emulates bf16 on AVX-512: convolutions were measured at a quarter of
        # float32's speed.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(
            bool(getattr(torch.cpu, probe)()) for probe in probes if hasattr(torch.cpu, probe)
        )
    return False


def find_precision(name: str, device: torch.device) -> str:
    """Return "bf16" or "float32" for a recipe's precision; "auto" is bf16 if in hardware."""
    if name != "auto":
        return name
    return "bf16" if has_fast_bf16(device) else "float32"


def cpu_facts() -> dict[str, str]:
    """Return what Linux tells of the first core: "model name", "flags" and more; {} elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def machine() -> str:
    """Return the processor's name, as the system tells it."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had at once.

    `getrusage` may return the value of the process that started this one. So on Linux it is read
    from /proc, which counts this process alone.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of torch or of an engine says that there is too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    ours = isinstance(error, FaststyleError)
    return not ours and any(words in str(error).lower() for words in OUT_OF_MEMORY)
