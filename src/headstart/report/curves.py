"""Geometry of curves, over epochs or over any other quantity; like ``charts``, it knows nothing of markup or colors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headstart import wording
from headstart.report.charts import Box, Point, Tick, nice_ticks, scale, spread


@dataclass(frozen=True)
class Series:
    """A line with its name; ``label_y`` is where the name stands, right of the last point."""

    name: str
    style: str
    points: tuple[Point, ...]
    label_y: float

    @property
    def path(self) -> str:
        """The ``d`` of an SVG path."""
        return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class CurveChart:
    """Curves over any quantity; ``marks`` are points to name on them, ``kept`` is the epoch whose weights were kept."""

    width: float
    height: float
    box: Box
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    marks: list[tuple[float, float, str]] = field(default_factory=list)
    kept: Tick | None = None


def line_chart(
    epochs: Sequence[float],
    curves: dict[str, Sequence[float]],
    *,
    kept_epoch: int | None,
    is_best: bool = True,
    number: Callable[[float], str],
) -> CurveChart:
    """Place curves over epochs.

    Args:
        epochs: Shape (n,), with n at least 1.
        curves: Name to values, shape (n,) each; ``train`` and ``validation``.
        kept_epoch: The epoch to mark, if any.
        is_best: Whether it was kept for being the best.
        number: How a value is written at the y axis.
    """
    width, height, box = 400.0, 250.0, Box(46.0, 22.0, 322.0, 212.0)
    values = [value for curve in curves.values() for value in curve]
    y_values = nice_ticks(min(values), max(values))
    x = scale(min(epochs), max(epochs), box.left + 8, box.right - 8)
    y = scale(y_values[0], y_values[-1], box.bottom, box.top)
    placed = {
        name: tuple((x(epoch), y(value)) for epoch, value in zip(epochs, curve, strict=True))
        for name, curve in curves.items()
    }
    label_places = spread([points[-1][1] for points in placed.values()], gap=15.0)
    every = max(1, math.ceil(len(epochs) / 10))
    return CurveChart(
        width,
        height,
        box,
        x_ticks=[Tick(x(epoch), wording.number(epoch)) for epoch in epochs[::every]],
        y_ticks=[Tick(y(value), number(value)) for value in y_values],
        series=[
            Series(name, name, points, place)
            for (name, points), place in zip(placed.items(), label_places, strict=True)
        ],
        kept=Tick(x(kept_epoch), f"{'best' if is_best else 'kept'}: {kept_epoch}")
        if kept_epoch in epochs and kept_epoch is not None
        else None,
    )


def curve_chart(
    curves: Mapping[str, Sequence[Point]],
    *,
    styles: Sequence[str],
    x_ticks: dict[float, str],
    number: Callable[[float], str],
    marks: Sequence[tuple[float, float, str]] = (),
    y_also: float | None = None,
) -> CurveChart:
    """Place curves over any quantity.

    Args:
        curves: Name to points (x, y), at least one each, x ascending. Names stand at the ends of the curves.
        styles: The style of each curve.
        x_ticks: Values of the x axis with their text; the smallest and largest are its ends.
        number: How a value is written at the y axis.
        marks: Points to draw and name.
        y_also: A value that the y axis shows besides those of the curves.
    """
    width, height, box = 520.0, 290.0, Box(46.0, 16.0, 436.0, 246.0)
    values = [y for points in curves.values() for _, y in points] + ([] if y_also is None else [y_also])
    y_values = nice_ticks(min(values), max(values))
    x = scale(min(x_ticks), max(x_ticks), box.left + 8, box.right - 8)
    y = scale(y_values[0], y_values[-1], box.bottom, box.top)
    placed = [tuple((x(a), y(b)) for a, b in points) for points in curves.values()]
    label_places = spread([points[-1][1] for points in placed], gap=15.0)
    return CurveChart(
        width,
        height,
        box,
        x_ticks=[Tick(x(value), text) for value, text in x_ticks.items()],
        y_ticks=[Tick(y(value), number(value)) for value in y_values],
        series=[Series(*row) for row in zip(curves, styles, placed, label_places, strict=True)],
        marks=[(x(a), y(b), text) for a, b, text in marks],
    )
