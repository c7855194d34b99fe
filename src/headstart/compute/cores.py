"""The cores of this machine, and how many threads may be asked for."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import psutil

from headstart.errors import InputError
from headstart.wording import counted

_T = TypeVar("_T")

MOST_THREADS = 1024
"""CPU threads that any machine may have."""
_NICENESS = 5
"""Added to a thread that gives way: the scheduler then gives it a third of what others get."""


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that can't be meant.

    Raises:
        InputError: It is below 1 or far above what any machine has.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"--threads {threads}: expected a number from 1 to {MOST_THREADS}; this machine has "
            f"{counted(os.cpu_count() or 1, 'core')}."
        )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_at_work() -> Callable[[], float]:
    """Return a function that tells how many of this machine's cores other programs have used on average since now."""

    def seconds() -> float:
        times = psutil.cpu_times()
        return float(times.user + times.system + getattr(times, "nice", 0.0) - time.process_time())

    began, before = time.perf_counter(), seconds()
    return lambda: max(0.0, (seconds() - before) / (time.perf_counter() - began))


def give_way() -> None:
    """Let the other threads of this process go first where cores are short; threads that this one starts inherit it.

    A server that computes on all cores still has to answer those whom it turns away. On systems other than Linux
    threads have no priority of their own, and nothing changes.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))


def in_background(function: Callable[[], _T]) -> Future[_T]:
    """Call a function in a thread of its own that gives way, and that no end of the process waits for."""
    future: Future[_T] = Future()

    def work() -> None:
        give_way()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="headstart-background", daemon=True).start()
    return future
