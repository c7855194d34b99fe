"""The processes that train together, as torchrun starts them, and what they tell each other."""

import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from headstart.errors import InputError, TrainingError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which torchrun tells a process who it is."""
_PATIENCE = timedelta(hours=2)
"""Time that processes wait for the main one while it computes features or validates alone."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; a single process by default.

    Attributes:
        rank: Number of this process, from 0; process 0 is the main one, which alone writes files and messages.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here.

        Raises:
            TrainingError: Another process has ended.
        """
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process.

        Raises:
            TrainingError: Another process has ended.
        """
        return bool(self.sum(torch.tensor(int(flag)))) if self.world > 1 else flag

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's ``values``, all of one shape, on their own device.

        Raises:
            TrainingError: Another process has ended.
        """
        if self.world == 1:
            return values
        total = values.clone()
        with self.connected():
            dist.all_reduce(total)
        return total

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process run the block before the others do, who then find what it has left on the disk."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn a connection that breaks inside the block into a TrainingError; for code that communicates by itself."""
        try:
            yield
        except RuntimeError as error:
            # What torch raises for a lost connection is no class of its own, but names its transport.
            if self.world == 1 or not any(word in str(error).lower() for word in ("gloo", "nccl", "connection")):
                raise
            raise TrainingError(
                f"Process {self.rank} of {self.world} stops, since the connection to another process broke: "
                f"{str(error).splitlines()[0]}. The message of the process that failed first names the cause."
            ) from None


ALONE = Processes()
"""A single process."""


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that torchrun started with this one; a process started otherwise is alone.

    Raises:
        InputError: What torchrun says of this process makes no sense, or the others can't be reached.
    """
    if not all(os.environ.get(name) for name in _VARIABLES):
        yield ALONE
        return
    processes = _own_number()
    if processes.world == 1:
        yield processes
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"Process {processes.rank} of {processes.world} can't reach the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {str(error).splitlines()[0]}. "
            "Check what torchrun was given."
        ) from None
    try:
        yield processes
    finally:
        _leave_group()


def own_device(name: str | None, processes: Processes) -> str | None:
    """Return the device for this process: of several processes on CUDA GPUs each takes one of its own, else the CPU."""
    if processes.world == 1 or name not in (None, "cuda"):
        return name
    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else name or "cpu"


def _leave_group() -> None:
    """End the group, once nothing refers to it: one that outlives Python itself aborts the process at its end."""
    if error := sys.exc_info()[1]:
        # A distributed network may be a variable of the functions that the error has left.
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    dist.destroy_process_group()


def _own_number() -> Processes:
    told = {name: os.environ[name] for name in _VARIABLES[:3]}
    if not all(value.isascii() and value.isdigit() for value in told.values()):
        raise InputError(f"Expected whole numbers in {told}. Start several processes with torchrun, which sets these.")
    rank, world = int(told["RANK"]), int(told["WORLD_SIZE"])
    if rank >= world:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE is {world}. Start the processes with torchrun.")
    return Processes(rank, world)
