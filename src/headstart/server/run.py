"""A server from its first moment to its last: sockets, signals, and an end that loses nothing."""

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn

from headstart.compute.cores import available_cores, check_threads
from headstart.errors import InputError
from headstart.server.app import build_app
from headstart.server.connections import Connection
from headstart.server.line import Line
from headstart.server.logs import logging_lines
from headstart.server.meters import Meters
from headstart.server.models import Models, places
from headstart.server.pages import page_paths
from headstart.server.protocol import protocol_paths
from headstart.server.reloads import Reloads
from headstart.server.service import Service, State
from headstart.server.settings import Access, Limits
from headstart.server.signals import Hangups, handled

_log = logging.getLogger("headstart.server")
_BACKLOG = 2048
_SWITCH_SECONDS = 0.0005
_SO_ATTACH_FILTER, _RETURN_NOTHING = 26, (6, 0, 0, 0)
"""Of Linux: a program of one instruction that decides how much of a packet a socket takes, here nothing."""
_LAST_MOMENT = 0.1
"""Seconds in which connections that were made just before the server closed its door send their request."""
_LAST_RELOAD = 5.0
"""Seconds that the end waits for a model that is being loaded, since native code does not bear to be cut off."""


@dataclass(frozen=True)
class Options:
    """How a server is started.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; a free one for 0.
        access: Who may ask.
        limits: What it takes on.
        device: Device to compute on.
        threads: CPU threads to compute with.
        log_requests: Log every request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    device: str | None = None
    threads: int | None = None
    log_requests: bool = True


def serve(models: Sequence[str], options: Options, ready: Callable[[str], None], hangups: Hangups | None = None) -> int:
    """Answer requests until a signal says stop.

    ``ready`` is called with the address once requests are answered; of the ``hangups`` some may have come already.

    Returns:
        The number of the signal that stopped it.

    Raises:
        InputError: A model can't be loaded, or the address can't be used.
    """
    check_threads(options.threads)
    wanted, hangups = places(models), hangups or Hangups()

    def begin(address: str) -> None:
        hangups.act(partial(asyncio.get_running_loop().call_soon_threadsafe, server.reloads.begin))
        ready(address)

    # Before the models, which take seconds to load: an address that is taken is told at once.
    log = logging_lines(requests=options.log_requests)
    with hangups.awaited(), handled({"SIGTERM": _leave}), _listening(options.host, options.port) as door, log:
        limits = _within_open_files(options.limits)
        batches, threads = _shared_out(options)
        loaded = Models(wanted, device=options.device, threads=threads)
        meters = Meters()
        service = Service(loaded, Line(limits, meters, batches=batches), meters, limits, State())
        server = make_server(service, options.access, begin)
        with handled({"SIGTERM": server.stop, "SIGINT": server.stop}), _switching_fast():
            server.run(sockets=[door])
        return server.stopped_by


def _leave(number: int, _: FrameType | None = None) -> NoReturn:
    """End the process at once; the first process of a container would not even notice the signal by itself."""
    os._exit(128 + number)


def _shared_out(options: Options) -> tuple[int, int]:
    """Return how many batches are computed at a time, and with how many threads each.

    Two on half of the cores each are faster than one on all: threads of one batch wait for each other between layers,
    and longer where one of them has to answer clients meanwhile. What runs on a GPU has that for itself.
    """
    threads = options.threads or available_cores()
    batches = 2 if threads > 1 and options.device in {None, "cpu"} else 1
    return batches, threads // batches


def make_server(service: Service, access: Access, ready: Callable[[str], None]) -> "Server":
    """Return a server of a service, which ``run`` or ``serve`` starts."""
    limits = service.limits
    config = uvicorn.Config(
        build_app(service, access, [protocol_paths(service), page_paths()]),
        http=partial(Connection, limits),  # type: ignore[arg-type]  # called like a class
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(limits.idle)),
        timeout_graceful_shutdown=round(limits.seconds + limits.receiving) + 1,
    )
    return Server(config, service, ready)


class Server(uvicorn.Server):
    """uvicorn's server, which stops without losing a request."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[str], None]) -> None:
        """Serve a service, whose application the configuration has; ``ready`` is called with the address."""
        super().__init__(config)
        self._service, self._ready = service, ready
        self.reloads = Reloads(service.models, service.meters)
        self.stopped_by = int(signal.SIGTERM)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone; ``serve`` sees to them."""
        yield

    def stop(self, number: int, _: FrameType | None = None) -> None:
        """Stop in good order, because of a signal; a second one ends the process at once, whatever hangs."""
        if self.should_exit:
            _leave(number)
        self.should_exit, self.stopped_by = True, int(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        for door in sockets or []:
            host, port = door.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _log.info("started", extra={"facts": {"url": address, "models": self._names()}})
            self._ready(address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ask clients to leave while answering them, close the door, and finish what was taken."""
        self._service.state.draining = True
        await asyncio.sleep(self._service.limits.draining)
        waiting = [one for door in sockets or [] for one in _waiting(door)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        taken = (loop.connect_accepted_socket(self._connection, one) for one in waiting)
        await asyncio.gather(*taken, return_exceptions=True)  # some clients have left meanwhile
        await asyncio.sleep(_LAST_MOMENT)
        await super().shutdown(sockets)
        await self.reloads.finish(_LAST_RELOAD)
        _log.info("stopped", extra={"facts": {"requests": self.server_state.total_requests}})

    def _connection(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _names(self) -> list[str]:
        return [served.name for served in self._service.models]


def _waiting(door: socket.socket) -> list[socket.socket]:
    """Take the connections that clients have made already, and have sent requests on: closing the door resets them."""
    if sys.platform == "linux":
        # None can be made any more, so that none comes between the last look and the closing.
        program = ctypes.create_string_buffer(struct.pack("HBBI", *_RETURN_NOTHING))
        with contextlib.suppress(OSError):  # not every kernel has such filters
            door.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    waiting = []
    with contextlib.suppress(OSError):  # that none is left, mostly
        while True:
            waiting.append(door.accept()[0])
    return waiting


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        door = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the second for a part of a name that is empty or too long
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host}: no such address ({reason}).") from None
    with contextlib.closing(door):
        try:
            if hasattr(signal, "SIGHUP"):  # on Windows it would let two servers share a port
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
            door.listen(_BACKLOG)
        except OSError as error:
            raise InputError(_not_listening(host, port, error)) from None
        door.setblocking(False)
        yield door


def _not_listening(host: str, port: int, error: OSError) -> str:
    where = f"{host} port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another program. Stop that, or choose another with --port (0 for a free one)."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{where}: no permission to listen there. Choose a port from 1024 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine. Choose another with --host, such as 127.0.0.1."
    return f"{where} can't be listened on: {error.strerror or error}."


@contextmanager
def _switching_fast() -> Iterator[None]:
    """Let threads wait less for each other.

    The event loop gives its turn away whenever it reads or writes, and would wait 5 ms to have it back from a thread
    that decodes or computes.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _within_open_files(limits: Limits) -> Limits:
    """Let this process have as many open files as connections need, or allow fewer where the system sets a limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * limits.connections + 256
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits
    with contextlib.suppress(ValueError, OSError):
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limits if allowed >= needed else replace(limits, connections=max(1, allowed // 2))
