"""Measured figures that stay as an earlier run found them, so that the same command makes the same choice."""

from typing import Any

from headstart.compute.remembered import recall, remember

NEAR = 1.3
"""How many times as large a figure may be as the one that is remembered, or as small, for that one to be taken."""


class Steady:
    """Figures that an earlier run measured, as long as this one finds nearly the same.

    A machine that has become faster or slower, for good or because it is busy, makes new figures count.
    """

    def __init__(self, key: dict[str, Any]) -> None:
        """Take up what is remembered for all that decides the figures, as plain data."""
        self._key = key
        self._known: dict[str, Any] = recall("speed", key).get("figures") or {}

    def __call__(self, name: str, measured: list[float], *, near: float = NEAR) -> list[float]:
        """Return the remembered figures of that name where the measured ones are near, else the measured ones."""
        known: Any = self._known.get(name)
        if _is_near(known, measured, near):
            return list(known)
        self._known[name] = measured
        remember("speed", self._key, figures=self._known)
        return measured


def _is_near(known: Any, measured: list[float], near: float) -> bool:
    try:
        pairs = list(zip(known, measured, strict=True))
        return all(now == before or 1 / near <= now / before <= near for before, now in pairs)
    except (TypeError, ValueError, ZeroDivisionError):  # nothing is remembered, or the file is damaged
        return False
