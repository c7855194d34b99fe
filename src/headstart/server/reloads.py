"""Loading the models again while the old ones answer. Nothing waits for it, since a disk may hang for ever."""

import asyncio
import logging
import time

from headstart.compute.cores import in_background
from headstart.server.meters import Meters
from headstart.server.models import Models

_log = logging.getLogger("headstart.server")
_PATIENCE = 10.0
"""Seconds after which a model that is still being loaded is named in the log, and holds up no other."""


class Reloads:
    """What loads the models again; belongs to the event loop."""

    def __init__(self, models: Models, meters: Meters, *, patience: float = _PATIENCE) -> None:
        """Load these models; ``patience`` is in seconds."""
        self._models, self._meters, self._patience = models, meters, patience
        self._wanted: dict[str, None] = {}
        self._going_on: asyncio.Task[None] | None = None
        self._loading: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Load every model again, one after the other; once more those whose loading has begun already."""
        self._wanted |= dict.fromkeys(served.name for served in self._models)
        if self._going_on is None or self._going_on.done():
            self._going_on = asyncio.ensure_future(self._go_on())

    async def finish(self, seconds: float) -> None:
        """Begin nothing more, and wait for so long at most for what is being loaded."""
        self._wanted.clear()
        if self._loading:
            await asyncio.wait(self._loading, timeout=seconds)

    async def _go_on(self) -> None:
        while self._wanted:
            name = next(iter(self._wanted))
            del self._wanted[name]
            loading = asyncio.ensure_future(self._load(name))
            self._loading.add(loading)
            loading.add_done_callback(self._loading.discard)
            await asyncio.wait([loading], timeout=self._patience)

    async def _load(self, name: str) -> None:
        began, pause = time.monotonic(), self._patience
        loading = asyncio.wrap_future(in_background(lambda: self._models.reload(name)))
        while not (await asyncio.wait([loading], timeout=pause))[0]:
            facts = {"model": name, "seconds": round(time.monotonic() - began, 1)}
            _log.warning("still loading; the old model answers", extra={"facts": facts})
            pause *= 2
        error = loading.exception()
        self._meters.reload(name, done=error is None)
        if error is None:
            _log.info("reloaded", extra={"facts": {"model": name}})
        else:
            reason = str(error) or type(error).__name__
            _log.error("not reloaded; the old model stays", extra={"facts": {"model": name, "reason": reason}})
