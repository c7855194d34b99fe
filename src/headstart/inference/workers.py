"""Threads that prepare images while a network computes, or that compute."""

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.compute.cores import available_cores
from headstart.contracts import UInt8Images

_P = ParamSpec("_P")
_T = TypeVar("_T")
Arrays: TypeAlias = list[NDArray[np.float32]]
_HALVES = 4
"""Halves that are computed at a time: those of two batches, as a server has them."""


class Workers:
    """A pool of threads that starts when it is first needed and ends with its owner.

    A pickled copy, and the copy in a forked process, start threads of their own.

    Attributes:
        count: Threads at most.
    """

    def __init__(
        self, count: int | None, *, name: str = "headstart-decode", begin: Callable[[], object] | None = None
    ) -> None:
        """Set the number of threads, one for each core of this process when None, and what each does first."""
        self.count = count or available_cores()
        self._name, self._begin = name, begin
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call a function in one of the threads."""
        with self._lock:
            if self._pool is None or self._process != os.getpid():
                self._pool = ThreadPoolExecutor(self.count, self._name, self._begin)
                self._process = os.getpid()
                weakref.finalize(self, self._pool.shutdown, wait=False)
            return self._pool.submit(function, *args, **kwargs)

    def __reduce__(self) -> tuple[type["Workers"], tuple[int]]:
        return Workers, (self.count,)


class Halves:
    """Computes a batch as two halves at the same time, each on half of the threads.

    Threads that compute one batch together wait for each other at every layer; those of two halves do not.

    Attributes:
        threads: Threads for each half; 0 where they can't be shared out evenly, and a batch stays whole.
    """

    def __init__(self, threads: int, begin: Callable[[], object] | None = None) -> None:
        """Share threads out; ``begin`` is what each thread that computes a half does first."""
        self.threads = 0 if threads % 2 else threads // 2
        self._workers = Workers(_HALVES, name="headstart-compute", begin=begin)

    def computed(self, compute: Callable[[UInt8Images], _T], squares: UInt8Images) -> list[_T]:
        """Return what a function gives for the first and the second half of at least two squares."""
        middle = len(squares) // 2
        futures = [self._workers.submit(compute, part) for part in (squares[:middle], squares[middle:])]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def outputs(
        self, squares: UInt8Images, *, whole: Callable[[UInt8Images], Arrays], half: Callable[[UInt8Images], Arrays]
    ) -> Arrays:
        """Return the arrays that ``whole`` gives for a batch that stays whole, or ``half`` for both, put together."""
        if not self.threads or len(squares) < 2:
            return whole(squares)
        return [np.concatenate(both) for both in zip(*self.computed(half, squares), strict=True)]
