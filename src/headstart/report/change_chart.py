"""Geometry of changes with their intervals: a line each, around a zero that all share.

As in ``charts``, nothing here knows about markup or colors; ``change_chart.jinja`` makes it into SVG.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headstart.report.charts import Box, Tick, nice_ticks, scale, shortened
from headstart.wording import signed_points, signed_points_short

_ROW = 26.0
_LETTER = 6.6
MOST_LINES = 40
"""With more changes, only the largest are drawn."""


@dataclass(frozen=True)
class ChangeRow:
    """A change, and the ends of its interval; ``direction`` is ``unclear`` where the interval holds zero."""

    name: str
    full_name: str
    y: float
    x: float
    low_x: float
    high_x: float
    text: str
    direction: Literal["up", "down", "unclear"]


@dataclass(frozen=True)
class ChangeChart:
    """Changes under one another; ``zero`` is where the axis has 0, ``hidden`` counts those that are not drawn."""

    width: float
    height: float
    box: Box
    zero: float
    x_ticks: list[Tick]
    rows: list[ChangeRow]
    hidden: int = 0


def change_chart(changes: Sequence[tuple[str, float, float, float]]) -> ChangeChart:
    """Place changes in percentage points.

    Args:
        changes: For each line its name, the change, and the ends of its 95% interval, in shares of 1; at least one.
            With many, only the largest are drawn, in the order given.
    """
    size = sorted((abs(value) for _, value, _, _ in changes), reverse=True)
    limit = size[MOST_LINES] if len(size) > MOST_LINES else -1.0
    hidden, changes = (
        len(changes),
        [change for change in changes if abs(change[1]) > limit] or list(changes)[:MOST_LINES],
    )
    hidden -= len(changes)
    names = [shortened(name) for name, *_ in changes]
    left = 16.0 + _LETTER * max(len(name) for name in names)
    box = Box(left, 8.0, left + 330.0, 8.0 + _ROW * len(changes))
    ticks = nice_ticks(min(0.0, *(100 * low for _, _, low, _ in changes)), max(0.0, *(100 * c[3] for c in changes)))
    x = scale(ticks[0], ticks[-1], box.left, box.right)
    rows = [
        ChangeRow(
            name=name,
            full_name=full_name,
            y=box.top + (i + 0.5) * _ROW,
            x=x(100 * value),
            low_x=x(100 * low),
            high_x=x(100 * high),
            text=signed_points(value),
            direction="up" if low > 0 else "down" if high < 0 else "unclear",
        )
        for i, (name, (full_name, value, low, high)) in enumerate(zip(names, changes, strict=True))
    ]
    x_ticks = [Tick(x(tick), signed_points_short(tick / 100)) for tick in ticks]
    return ChangeChart(box.right + 52.0, box.bottom + 42.0, box, x(0.0), x_ticks, rows, hidden)
