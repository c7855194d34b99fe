"""Geometry of histograms and of counts by class; like ``charts``, it knows nothing of markup or colors."""

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.report.charts import Bar, Box, Point, Tick, nice_ticks, scale, shortened
from headstart.wording import number, percent_short

_ROW = 22.0
"""Height of a class's row."""


@dataclass(frozen=True)
class Outline:
    """One histogram: ``path`` is the ``d`` of an SVG path along its top; ``peak`` the middle of its fullest bin."""

    name: str
    path: str
    peak: float


@dataclass(frozen=True)
class HistogramChart:
    """Histograms over the 256 values of a byte, as shares; ``filled`` closes the only one down to the axis."""

    width: float
    height: float
    box: Box
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    outlines: list[Outline]
    filled: bool


@dataclass(frozen=True)
class ClassRow:
    """A class with a bar for each split: the bar, and its count."""

    name: str
    y: float
    bars: list[tuple[str, Bar, int]]


@dataclass(frozen=True)
class ClassChart:
    """Counts by class, one below the other."""

    width: float
    height: float
    box: Box
    x_ticks: list[Tick]
    rows: list[ClassRow]


def histogram_chart(histograms: dict[str, Sequence[int]]) -> HistogramChart:
    """Place histograms of equally many bins that together cover 0 to 256.

    Args:
        histograms: Name to counts, shape (bins,) each; one alone is filled.
    """
    box = Box(46.0, 12.0, 386.0, 196.0)
    shares = {name: [count / max(1, sum(counts)) for count in counts] for name, counts in histograms.items()}
    y_values = nice_ticks(0.0, max(max(row) for row in shares.values()), about=4)
    x, y = scale(0, 256, box.left, box.right), scale(0, y_values[-1], box.bottom, box.top)
    outlines = []
    for name, row in shares.items():
        step = 256 / len(row)
        points: list[Point] = [(x((i + side) * step), y(share)) for i, share in enumerate(row) for side in (0, 1)]
        fullest = max(range(len(row)), key=lambda i, row=row: row[i])  # type: ignore[misc]
        outlines.append(Outline(name, "M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in points), (fullest + 0.5) * step))
    return HistogramChart(
        400.0,
        236.0,
        box,
        x_ticks=[Tick(x(value), str(value)) for value in (0, 64, 128, 192, 255)],
        y_ticks=[Tick(y(value), percent_short(value)) for value in y_values],
        outlines=outlines,
        filled=len(outlines) == 1,
    )


def class_chart(counts: dict[str, dict[str, int]]) -> ClassChart:
    """Place the number of images of each class.

    Args:
        counts: Split to class to count; every split has the same classes in the same order.
    """
    names = list(next(iter(counts.values())))
    shown = {name: shortened(name) for name in names}
    left = 16.0 + 6.8 * max(len(name) for name in shown.values())
    pitch = _ROW * len(counts) * 0.62 + 8
    box = Box(left, 4.0, left + 380.0, 4.0 + pitch * len(names))
    ticks = nice_ticks(0.0, max(max(row.values()) for row in counts.values()))
    x = scale(0, ticks[-1], box.left, box.right)
    thick = (pitch - 8) / len(counts)
    rows = []
    for place, name in enumerate(names):
        top = box.top + place * pitch + 4
        bars = [
            (split, Bar(box.left, top + i * thick, x(row[name]) - box.left, thick - 1.5), row[name])
            for i, (split, row) in enumerate(counts.items())
        ]
        rows.append(ClassRow(shown[name], top + (pitch - 8) / 2, bars))
    return ClassChart(
        box.right + 52,
        box.bottom + 24,
        box,
        x_ticks=[Tick(x(value), number(value)) for value in ticks],
        rows=rows,
    )
