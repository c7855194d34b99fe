"""What a server allows, and to whom."""

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from headstart.errors import InputError
from headstart.files import reading

TOKEN_VARIABLE = "HEADSTART_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,512}")
_LONGEST_TOKEN_FILE = 1024
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True)
class Limits:
    """What a server takes on; beyond it a request is refused at once.

    Attributes:
        batch: Images that the network computes together at most; what suits the device when None.
        queue: Images that are decoded, wait or are being computed, of all requests together.
        files: Images in one request.
        body: Size of one request, in bytes.
        held: Size of all requests that are being read or answered, in bytes.
        pixels: Pixels of one image.
        seconds: Time for the answer to a request, once it was received.
        receiving: Time that a client may take to send a request, in seconds.
        idle: Time after which a connection without a request is closed, in seconds.
        connections: Open connections.
        draining: Time for which a server that was told to stop goes on taking requests, in seconds.
    """

    batch: int | None = None
    queue: int = 128
    files: int = 64
    body: int = 32 * 2**20
    held: int = 512 * 2**20
    pixels: int = 50_000_000
    seconds: float = 10.0
    receiving: float = 20.0
    idle: float = 15.0
    connections: int = 1000
    draining: float = 0.5


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: Names by which the server may be called, lower case, besides ``localhost`` and IP addresses.
        token: What a client must send as ``Authorization: Bearer TOKEN``; None where anybody may ask.
    """

    hosts: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)

    def knows(self, host: str) -> bool:
        """Tell whether a request may name the server so in its header ``Host``.

        A page of somebody else can make its own name point to this machine, but can't make an address its name.
        """
        name = host_name(host)
        if name is None:
            return False
        return "*" in self.hosts or name == "localhost" or name in self.hosts or _is_address(name)


@lru_cache(maxsize=1024)
def host_name(host: str) -> str | None:
    """Return the name in a header ``Host`` without its port, lower case; None where there is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", host)
    return found[1].strip("[]").lower().rstrip(".") if found else None


@lru_cache(maxsize=1024)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_access(token_file: Path | None, hosts: Iterable[str]) -> Access:
    """Return who may ask, with the token of a file, or else of the environment variable ``HEADSTART_TOKEN``.

    Raises:
        InputError: The token can't be read or is too short, or a host is no name.
    """
    names = frozenset(host.lower() for host in hosts)
    for name in names:
        if name != "*" and not _HOST.fullmatch(name):
            raise InputError(
                f"--allow-host {name}: expected a name such as images.example.org, without scheme and port, or *."
            )
    if token_file is None:
        token, origin = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    else:
        origin = str(token_file)
        # The file may be a pipe, or a device without end.
        with reading(f"--token-file {token_file}", InputError), token_file.open("rb") as file:
            token = file.read(_LONGEST_TOKEN_FILE).decode("ascii", "replace").strip()
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(
            f"The token in {origin} must have 8 to 512 letters, digits or characters of ._~+/=-. "
            "Make one with: openssl rand -hex 32"
        )
    return Access(names, token)
