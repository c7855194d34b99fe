"""What the ``headstart`` command sets for its own process, and importing headstart does not."""

import ctypes
import os
import platform

SPIN_COUNT = 1000
"""Turns that an OpenMP thread waits at a barrier before it sleeps.

By default it waits for as long as it takes. On a machine that other processes use as well, that keeps the cores from
the very threads that it waits for, and the network is 15 to 30 times slower. benchmarks/results/spin.json has figures.
"""


def prepare_command() -> None:
    """Set the process up before torch is loaded; what the user has set stays."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed: asking the kernel for fresh pages for every activation costs about a tenth."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)
    # What the threads of other arenas have freed can't be given back: each keeps up to 64 MB.
    libc.mallopt(arena_max, 1)
