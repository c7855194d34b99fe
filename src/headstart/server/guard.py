"""What every request passes first: who may ask, how much may come, and what is noted about it."""

import hmac
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi import HTTPException

from headstart.server.service import BUSY, Service, State
from headstart.server.settings import Access, Limits

_log = logging.getLogger("headstart.server.requests")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = ("/", "/healthz", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
"""What is answered without the token: nothing of it tells about images or models."""
_PUBLIC_FOLDER = "/static/"
_NO_ROUTE = "(none)"
"""What figures call the route of a request for which there is none, or that could not be read."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: App, routes: Sequence[Any], *, service: Service, access: Access) -> None:
        """Guard an application, which need not see a request whose images would find no room in the line.

        Its routes, as Starlette has them, name in the figures what refused requests asked for.
        """
        self._app, self._routes, self._service, self._access = app, routes, service, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self._service.limits, self._service.state)
        try:
            refusal = self._refusal(scope, visit.headers)
            if refusal is None:
                await self._app(visit.scope, visit.receive, visit.send)
            else:
                asked = (route for route in self._routes if route.matches(scope)[0].value)
                visit.scope["route"] = next(asked, None)
                await visit.refuse(*refusal)
        finally:
            self._service.state.held -= visit.size
            self._note(visit)

    def count_refused(self, status: int) -> None:
        """Count a request that its connection refused before it came here."""
        self._service.meters.request(_NO_ROUTE, status, None)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Return status and reason where a request is refused whatever it asks for."""
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = named[0] if len(named) == 1 else ""
        if not self._access.knows(host):
            return 421, "This server is not known by that name. Start it with --allow-host NAME to allow it."
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if not all(_is_same(origin, host) for origin in origins):
            return 403, "Pages of other origins may not ask this server."
        if self._access.token is not None and not _is_public(scope["path"]):
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given, self._access.token.encode("ascii")):
                return 401, "Send the token as Authorization: Bearer TOKEN."
        if scope["method"] == "POST" and self._service.line.is_full:
            return 503, BUSY
        return None

    def _note(self, visit: "_Visit") -> None:
        seconds = time.monotonic() - visit.started
        route = getattr(visit.scope.get("route"), "path", _NO_ROUTE)
        self._service.meters.request(route, visit.status, seconds)
        if route in {"/metrics", "/healthz"} or route.startswith("/v2/health"):
            return
        client = visit.scope.get("client")
        facts = {
            "id": visit.id,
            "client": client[0] if client else None,
            "method": visit.method,
            "path": visit.scope["path"][:200],
            "status": visit.status,
            "ms": round(seconds * 1000, 1),
            "bytes": visit.size,
        }
        _log.info("request", extra={"facts": facts})


class _Visit:
    """One request on its way in and out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, state: State) -> None:
        self.method = scope["method"]
        # uvicorn leaves the body out of the response to a HEAD request, which is that to a GET request otherwise.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self._receive, self._send = receive, send
        self._limits, self._state = limits, state
        self.started = time.monotonic()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        self.size = 0
        self._received = False
        self.status = 499
        """499 where the client left before there was a response, as nginx counts it."""

    async def receive(self) -> Message:
        """Return the next part of the body; refuse what is too large or too slow."""
        if self._received:  # who asks now waits for the client to leave
            return await self._receive()
        # The connection sees to it that an empty part comes when the time is over.
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "The client left.")
        self._received = not message.get("more_body", False)
        if not self._received and time.monotonic() - self.started > self._limits.receiving:
            raise HTTPException(408, "The request did not come in time.")
        length = len(message.get("body", b""))
        self.size += length
        self._state.held += length
        if self.size > self._limits.body:
            raise too_large(self._limits)
        if self._state.held > self._limits.held:
            raise HTTPException(503, BUSY, {"Retry-After": "1"})
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", self.id.encode())]
            # After an error that nobody foresaw, uvicorn closes the connection; the client must not send more there.
            if self._state.draining or self.status in {408, 500}:
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def refuse(self, status: int, reason: str) -> None:
        """Send an error."""
        body = json.dumps({"error": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def too_large(limits: Limits) -> HTTPException:
    """Return the error of a request that is too large."""
    return HTTPException(413, f"A request may have {limits.body / 2**20:g} MiB. Send fewer or smaller images.")


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(_PUBLIC_FOLDER)


def _is_same(origin: str, host: str) -> bool:
    """Tell whether a header ``Origin`` names this very server, as the header ``Host`` does."""
    scheme, separator, place = origin.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    return place.lower().removesuffix(f":{_DEFAULT_PORTS[scheme]}") == host.lower().removesuffix(
        f":{_DEFAULT_PORTS[scheme]}"
    )
