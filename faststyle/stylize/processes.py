"""One collection over several processes: each item is done by one of them, without a word between.

A launcher sets RANK and WORLD_SIZE in the environment: torchrun does, on one machine or several,
and a job array of Slurm can. Item i belongs to the process of rank i modulo their number.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from faststyle.devices import cores
from faststyle.errors import DeviceError, Interrupted

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=30)  # for the slowest process of a collection


@dataclass(frozen=True)
class Process:
    """One of `count` processes that share a collection, `on_machine` of them on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    on_machine: int = 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Return the items of this process. All processes must be given the same list."""
        return list(items[self.rank :: self.count])

    def threads(self, asked: int | None) -> int | None:
        """Return the CPU threads of this process: as asked, else its share of the cores.

        An engine that is told nothing takes all cores, in each of the processes.
        """
        if asked is not None or self.on_machine == 1:
            return asked
        return max(1, cores() // self.on_machine)


ALONE = Process()


def this_process() -> Process:
    """Return this process, by RANK and WORLD_SIZE of the environment; `ALONE` without them.

    LOCAL_RANK and LOCAL_WORLD_SIZE tell of the processes on this machine. Raises: DeviceError for
    values that make no sense.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return ALONE
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise DeviceError("RANK and WORLD_SIZE go together: set both in the environment, or none")
    rank = _number("RANK")
    count = _number("WORLD_SIZE")
    if rank >= count:
        raise DeviceError(f"RANK {rank} of WORLD_SIZE {count}: ranks go from 0 to {count - 1}")
    local_rank = _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0
    on_machine = _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else 1
    return Process(rank, count, local_rank, max(1, on_machine))


def take_gpu(process: Process) -> None:
    """Let this process see one GPU only, where a machine has several for its processes.

    It must be called before CUDA starts. Each engine then finds its GPU as the first one.
    """
    if process.on_machine == 1:
        return
    import torch  # here, since it takes a second

    count = torch.cuda.device_count()
    if count < 2:
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(count)]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[process.local_rank % len(names)]


def wait_for_others(process: Process) -> None:
    """Wait until all processes of torchrun have come here.

    torchrun stops all processes when one exits with an error. So a process that has failed pictures
    to tell of waits for the others. Other launchers stop nothing, and need no wait.
    """
    import torch.distributed

    if process.count == 1 or not torch.distributed.is_torchelastic_launched():
        return
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Raise Interrupted where SIGTERM comes in this block, so that files are closed in good order.

    Schedulers and torchrun send it. What was written whole stays, and the next run goes on there.
    """

    def end(number: int, _: object) -> None:
        raise Interrupted("the same command goes on where it was", number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread, where Python handles no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _number(name: str) -> int:
    """Return a variable of the environment as a number. Raises: DeviceError."""
    text = os.environ[name]
    if not text.isdecimal():
        raise DeviceError(f"{name} in the environment must be a number from 0 up, got {text!r}")
    return int(text)
