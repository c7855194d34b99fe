"""Connections that can't be held open by clients that send or take too slowly, or without end."""

import asyncio
import contextlib
import json
import socket
import struct
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from headstart.server.settings import Limits

_LARGEST_HEAD = 64 * 2**10
"""Bytes of a request's first line and headers."""
_AGAIN = 0.1
"""Seconds between two times that the application is told to look at its clock."""
_UNWANTED = 64
"""How many times the largest body is read and thrown away after a response, at most. Many clients look for the response
only when they have sent everything, and would see nothing but a connection that was reset."""
_LINGER, _LINGERING = 1.0, 1.25
"""Seconds in which a client that was refused a connection can send its request, and see the response; and how many
connections there are then at most, in shares of those allowed."""
_WITHOUT_DELAY = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER: what was not taken yet is thrown away when the socket is closed."""


class Connection(HttpToolsProtocol):
    """HTTP on one connection, with uvicorn's own protocol and a clock."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        """Keep to limits; the rest is uvicorn's."""
        super().__init__(**options)
        self._limits = limits
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._head = 0
        self._unwanted = 0
        self._in_body = False
        self._ends = False
        self._is_refused = False
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse one too many."""
        super().connection_made(transport)
        if not self._is_one_too_many():
            self._start_clock("read", self._limits.idle)
            return
        # Most clients look for a response only when they have sent their request, and a closed door would reset that.
        # So the request is taken and dropped for a moment, unless such clients take up too many connections themselves.
        self._is_refused = len(self.connections) <= _LINGERING * self._limits.connections + 1
        self._refuse(503, "Too many connections. Try again in a second.", lingers=self._is_refused)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_clock("read")
        self._stop_clock("write")
        self._out.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head of a request is too large."""
        if self.transport.is_closing() or self._is_refused:
            return
        if not self._in_body:
            self._head += len(data)
            if self._head > _LARGEST_HEAD + self._limits.body:
                self._refuse(431, "The headers of the request are too large.")
                return
        self._unset_keepalive_if_required()
        # What comes may be the end of a line, which begins no request. Whatever does begins with a clock of its own.
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self._in_body and "read" not in self._clocks:
            self._start_clock("read", self._limits.idle)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(400, "Invalid HTTP request received.")
            return
        if not self._in_body and self._head > _LARGEST_HEAD:
            self._refuse(431, "The headers of the request are too large.")

    def on_message_begin(self) -> None:
        """Give the client its time to send a request."""
        super().on_message_begin()
        self._start_clock("read")

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        if self.parser.should_upgrade():  # this request comes again, see _parse
            return
        self._in_body, self._head = True, 0
        super().on_headers_complete()
        self.cycle.transport = self  # type: ignore[assignment]  # of which it uses the three methods below

    def write(self, data: bytes) -> None:
        """Send a part of a response, in one packet with what else is sent in this turn of the event loop."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def is_closing(self) -> bool:
        """Tell whether nothing can be sent any more."""
        return self.transport.is_closing()

    def close(self) -> None:
        """Close after a response, once the client has sent its request: what is sent to a closed door resets it."""
        self._ends = True
        self._flush()
        if not self._in_body:
            self.transport.close()

    def shutdown(self) -> None:
        """Close once nothing is being answered any more."""
        self._flush()
        super().shutdown()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, or drop what nobody wants any more."""
        if self.cycle.response_complete:
            self._unwanted += len(body)
            if self._unwanted > _UNWANTED * self._limits.body:
                self._drop()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self.parser.should_upgrade():
            return
        self._stop_clock("read")
        self._in_body, self._unwanted = False, 0
        super().on_message_complete()
        if self._ends:
            self.transport.close()
        elif self.cycle.response_complete:
            self._start_clock("read", self._limits.idle)

    def on_response_complete(self) -> None:
        """Close, or wait for the next request."""
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._start_clock("write")

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is not used."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._drop()

    def pause_writing(self) -> None:
        """Give the client its time to take a response."""
        super().pause_writing()
        self._start_clock("write")

    def resume_writing(self) -> None:
        """Note that the client takes it."""
        super().resume_writing()
        self._stop_clock("write")

    def _parse(self, data: bytes) -> None:
        """Parse the next bytes; a request to switch to another protocol, such as HTTP/2 or WebSocket, is not followed.

        httptools takes what follows the headers of such a request for the other protocol, and would then read its body
        as the next request. So another parser reads the request again, with the headers but for that wish.
        """
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                method, number = self.parser.get_method(), self.parser.get_http_version().encode()
                if method == b"CONNECT":
                    return self._refuse(400, "This server is no proxy.")
                kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
                head = b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, number), *kept, b"", b""])
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _flush(self) -> None:
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()

    def _is_one_too_many(self) -> bool:
        most = self._limits.connections
        if len(self.connections) <= most:
            return False
        return sum(not getattr(one, "_is_refused", False) for one in self.connections) > most

    def _refuse(self, status: int, reason: str, *, lingers: bool = False) -> None:
        """Answer without the application, which only counts it, and close."""
        self.config.app.count_refused(status)  # type: ignore[union-attr]  # it is a Guard
        body = json.dumps({"error": reason}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        retry = "retry-after: 1\r\n" if status == 503 else ""
        self._flush()
        self.transport.write(STATUS_LINE[status] + f"{head}{retry}\r\n".encode() + body)
        if lingers:
            self.transport.write_eof()
        else:
            self.transport.close()
        self._start_clock("write", _LINGER if lingers else None)

    def _drop(self) -> None:
        """Close at once, whatever the client has not taken."""
        # Otherwise the system would keep megabytes for minutes and offer them to a client that takes nothing.
        with contextlib.suppress(OSError):
            door: socket.socket = self.transport.get_extra_info("socket")
            door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _WITHOUT_DELAY)
        self.transport.abort()

    def _start_clock(self, what: str, seconds: float | None = None) -> None:
        self._stop_clock(what)
        self._clocks[what] = self.loop.call_later(seconds or self._limits.receiving, self._time_is_over, what)

    def _stop_clock(self, what: str) -> None:
        if what in self._clocks:
            self._clocks.pop(what).cancel()

    def _time_is_over(self, what: str) -> None:
        # A request of which the headers have come is answered by the application, which looks at its own clock when it
        # is woken. It may have begun to wait a moment later.
        if what == "read" and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.message_event.set()
            self._start_clock(what, _AGAIN)
        else:
            self._drop()
