"""Signals, from the first moment of a server on; nothing here takes long to import."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handled(handlers: Mapping[str, Handler]) -> Iterator[None]:
    """Handle signals, by name, until the body ends; those that this system does not have are left out."""
    known = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in known.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Hangups:
    """SIGHUP, which is remembered until there is something to do about it: by itself it would end the process."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._came = False
        self._act: Callable[[], object] | None = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Take note of the signal until the body ends."""
        with handled({"SIGHUP": self._come}):
            yield

    def act(self, act: Callable[[], object]) -> None:
        """Call a function at each signal from now on, and now if one has come already."""
        self._act = act
        if self._came:
            act()

    def _come(self, *_: object) -> None:
        self._came = True
        if self._act is not None:
            with contextlib.suppress(RuntimeError):  # its event loop has ended
                self._act()
