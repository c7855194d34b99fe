"""Where and how work is done: device, threads, terminal and command, in one object."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch

from headstart.compute.cores import check_threads
from headstart.compute.device import describe_hardware, pick_device
from headstart.compute.precision import full_float32
from headstart.compute.processes import Processes, joined_processes, own_device
from headstart.terminal import Terminal


@dataclass(frozen=True)
class Session:
    """Where and how work is done, never what: nothing here decides a result but for the last bits.

    Attributes:
        device: Device to compute on.
        threads: CPU threads.
        processes: This process among those that torchrun started together; alone by default.
        terminal: Messages and progress bars.
        command: What the user typed, for the record.
        started: Unix time from which the cost of the work counts.
    """

    device: torch.device
    threads: int
    processes: Processes
    terminal: Terminal
    command: str
    started: float

    def surroundings(self, packages: tuple[str, ...]) -> dict[str, Any]:
        """Return what a run records of this process: command, time, threads, device, versions, hardware."""
        return {
            "command": self.command,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "threads": self.threads,
            "device": str(self.device),
            "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in packages},
            "hardware": describe_hardware(self.device),
        }


@contextmanager
def open_session(
    *,
    command: str,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    started: float | None = None,
) -> Iterator[Session]:
    """Set this process up for repeatable work, and put everything back afterwards.

    Number of threads, flags of cuDNN, random state and environment are the whole process's: a notebook must find them
    as they were.

    Raises:
        InputError: There is no such device, or no such number of threads.
    """
    check_threads(threads)
    with ExitStack() as stack:
        processes = stack.enter_context(joined_processes())
        chosen = pick_device(own_device(device, processes))
        stack.enter_context(_process_settings())
        stack.enter_context(torch.random.fork_rng([chosen] if chosen.type == "cuda" else []))
        stack.enter_context(full_float32())
        if threads is not None:
            torch.set_num_threads(threads)
        # cuBLAS needs this before its first call to be repeatable.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        yield Session(
            device=chosen,
            threads=torch.get_num_threads(),
            processes=processes,
            terminal=Terminal(enabled=progress and processes.is_main),
            command=command,
            started=started or time.time(),
        )


@contextmanager
def _process_settings() -> Iterator[None]:
    """Restore what a session changes for the whole process."""
    cudnn = torch.backends.cudnn
    threads, benchmark, deterministic = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
