"""Threads that prepare images while a network computes."""

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import ParamSpec, TypeVar

from headstart.compute.cores import available_cores

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers:
    """A pool of threads that starts when it is first needed and ends with its owner.

    A pickled copy, and the copy in a forked process, start threads of their own.

    Attributes:
        count: Threads at most.
    """

    def __init__(self, count: int | None) -> None:
        """Set the number of threads; one for each core that this process may use when None."""
        self.count = count or available_cores()
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call a function in one of the threads."""
        with self._lock:
            if self._pool is None or self._process != os.getpid():
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="headstart-decode")
                self._process = os.getpid()
                weakref.finalize(self, self._pool.shutdown, wait=False)
            return self._pool.submit(function, *args, **kwargs)

    def __reduce__(self) -> tuple[type["Workers"], tuple[int]]:
        return Workers, (self.count,)
