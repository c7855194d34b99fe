"""The cores of this machine, and how many threads may be asked for."""

import os

from headstart.errors import InputError

MOST_THREADS = 1024
"""CPU threads that any machine may have."""


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that can't be meant.

    Raises:
        InputError: It is below 1 or far above what any machine has.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"--threads {threads}: expected a number from 1 to {MOST_THREADS}; this machine has {os.cpu_count()} cores."
        )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
