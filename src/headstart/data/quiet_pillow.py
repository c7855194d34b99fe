"""Pillow without its warnings about odd but readable files."""

import warnings
from threading import Lock
from typing import Any


class _QuietPillow:
    """Keeps Pillow's warnings about odd but readable files from the user's terminal while an image is decoded.

    Filters of warnings are the whole process's. ``warnings.catch_warnings`` would restore a list that another thread
    has changed meanwhile; this adds one entry when the first of several threads begins to decode, and removes that
    entry when the last one ends.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._decoding = 0
        self._filters: list[Any] = []
        self._added: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            self._decoding += 1
            if self._decoding > 1:
                return
            self._filters = warnings.filters  # type: ignore[assignment]
            before = len(self._filters)
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # Where the user has the same filter, it is the user's that stays.
            self._added = self._filters[:1] if len(self._filters) > before else []

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._decoding -= 1
            if self._decoding == 0 and self._added and self._added[0] in self._filters:
                self._filters.remove(self._added[0])


quiet_pillow = _QuietPillow()
"""Context in which Pillow does not warn."""
