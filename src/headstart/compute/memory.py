"""Memory of this process and what it took at most."""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import psutil


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (1e6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux a child begins with its parent's.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    memory = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss) / 1e6)


def give_back_freed_memory() -> None:
    """Let the system have what this process has freed; glibc keeps it otherwise, for the thread that freed it alone."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
