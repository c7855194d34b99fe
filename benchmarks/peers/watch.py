"""Run a command, and see how long it takes and how much memory it needs with all its children."""

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY = 0.5
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Watched:
    """What became of a command.

    Attributes:
        seconds: Wall time from the start of its process to its end.
        peak_mb: Largest memory of it and its children at one time, in megabytes; pages that they share count once.
        status: Exit status.
        last_words: The end of what it printed.
    """

    seconds: float
    peak_mb: float
    status: int
    last_words: str


def watch(words: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Watched:
    """Run a command to its end; what it prints goes into ``log``."""
    peak = 0
    with log.open("w", encoding="utf-8") as file:
        started = time.perf_counter()
        process = subprocess.Popen(words, env=dict(environment), stdout=file, stderr=subprocess.STDOUT)
        over = threading.Event()

        def look() -> None:
            nonlocal peak
            highest = 0
            while not over.wait(_EVERY):
                # Counting shared pages once takes the kernel 30 ms for each gigabyte, which would slow down what is
                # measured: it is done only when memory has grown.
                if (resident := _memory(process.pid, _resident)) > 1.01 * highest:
                    highest = resident
                    peak = max(peak, _memory(process.pid, _proportional))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            seconds = time.perf_counter() - started
            over.set()
            looking.join()
    words_at_end = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
    return Watched(round(seconds, 1), round(peak / 1e6), status, words_at_end)


def _resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def _proportional(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)


def _memory(pid: int, figure: Callable[[psutil.Process], int]) -> int:
    """Return the bytes in memory of a process and its children, each counted by ``figure``."""
    total = 0
    try:
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            total += figure(process)
    except psutil.Error:  # one of them has just ended
        pass
    return total


def _end(process: "subprocess.Popen[bytes]") -> None:
    # Ctrl-C reaches it and its children as well, so that any of them may be gone.
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()
