"""Files over HTTP: with a bar, a size limit, a time limit and retries.

Whatever goes wrong ends in a DownloadError whose message is the reason alone; who asked for the file says what it
was for.
"""

import ssl
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from headstart.errors import DownloadError, WriteError
from headstart.terminal import Terminal
from headstart.wording import counted

CONNECT_SECONDS = 5.0
"""Longest wait for a connection; a site out of reach must not hold up the next source."""
READ_SECONDS = 20.0
"""Longest pause in a transfer."""
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long a download may take.

    Attributes:
        seconds: Time for all attempts together.
        attempts: Number of attempts.
        backoff: Seconds before the second attempt; they double with each further one.
    """

    seconds: float = 900.0
    attempts: int = 3
    backoff: float = 0.5

    @property
    def out_of_time(self) -> DownloadError:
        """The error that ends a download whose time is up."""
        return DownloadError(f"not finished within the time limit of {self.seconds:g} s")


PATIENCE = Patience()


class _TransientError(Exception):
    """A failure that another attempt may not meet."""


def fetch_url(
    url: str,
    target: Path,
    *,
    title: str,
    max_bytes: int,
    terminal: Terminal,
    patience: Patience = PATIENCE,
) -> None:
    """Download ``url`` to ``target``, which appears whole or not at all.

    A failure that may pass (a dropped connection, a busy server) is tried again after a pause. A site that can't be
    reached gets one more attempt if it said so at once, and none if it kept silent. A file of more than ``max_bytes``
    is refused as soon as that is known.

    Raises:
        DownloadError: Why the file can't be had.
        WriteError: The disk is full, or the folder can't be written.
    """
    deadline = time.monotonic() + patience.seconds
    partial = target.with_name(f"{target.name}.partial")
    try:
        for attempt in range(1, patience.attempts + 1):
            try:
                _download(url, partial, title=title, max_bytes=max_bytes, terminal=terminal, deadline=deadline)
                partial.replace(target)
                return
            except httpx.TimeoutException as error:
                reason, last = _silence(url, error), True
            except httpx.ConnectError as error:
                reason, last = f"can't reach {_host(url)}: {error}", attempt == 2
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
                reason, last = f"{url}: {error}", True
            except (_TransientError, httpx.TransportError) as error:
                reason, last = f"{error or type(error).__name__} ({counted(attempt, 'attempt')})", False
            except OSError as error:
                raise WriteError(partial, error) from error
            pause = patience.backoff * 2 ** (attempt - 1)
            if time.monotonic() + pause >= deadline:
                raise patience.out_of_time
            if last or attempt == patience.attempts:
                raise DownloadError(reason)
            time.sleep(pause)
    finally:
        partial.unlink(missing_ok=True)


@cache
def _authorities() -> ssl.SSLContext:
    """Return whose certificates are trusted; reading them takes longer than fetching a small file."""
    return httpx.create_ssl_context()


def too_large(what: str, size: int, max_bytes: int) -> DownloadError:
    """Return the error that ends a download of more bytes than make sense."""
    return DownloadError(
        f"{what} is larger than it can rightly be: {size / 1e6:,.0f} MB, where at most {max_bytes / 1e6:,.0f} MB make "
        "sense. It was not downloaded"
    )


def _silence(url: str, error: httpx.TimeoutException) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no answer from {_host(url)} within {CONNECT_SECONDS:g} s"
    return f"{_host(url)} sent nothing for {READ_SECONDS:g} s"


def _download(url: str, partial: Path, *, title: str, max_bytes: int, terminal: Terminal, deadline: float) -> None:
    left = max(deadline - time.monotonic(), 0.01)
    timeout = httpx.Timeout(min(READ_SECONDS, left), connect=min(CONNECT_SECONDS, left))
    # A compressed transfer would make the announced length meaningless; the files are compressed already.
    headers = {"Accept-Encoding": "identity"}
    given: dict[str, Any] = {"timeout": timeout, "headers": headers, "verify": _authorities()}
    with httpx.stream("GET", url, **given, follow_redirects=True) as response:
        if response.status_code in _RETRY_STATUS:
            raise _TransientError(f"{_host(url)} answered {response.status_code} {response.reason_phrase}")
        if response.status_code != 200:
            raise DownloadError(f"{url} answered {response.status_code} {response.reason_phrase}")
        announced = response.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else None
        if size is not None and size > max_bytes:
            raise too_large(url, size, max_bytes)
        with partial.open("wb") as file, terminal.transfer(title, size) as bar:
            for chunk in response.iter_raw():
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the time for all attempts is up")
                file.write(chunk)
                if file.tell() > max_bytes:
                    raise too_large(url, file.tell(), max_bytes)
                bar(file.tell())
    if size is not None and partial.stat().st_size != size:
        raise _TransientError(f"{partial.stat().st_size} of {size} bytes arrived")


def _host(url: str) -> str:
    return httpx.URL(url).host
