"""Geometry of the charts: from figures to places on a drawing, which ``charts.jinja`` makes into SVG.

Nothing here knows about markup or colors, so that the style sheet can adapt to light, dark and print.
Lengths are SVG user units, with y growing downwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headstart.tasks.metrics import Bin
from headstart.wording import percent

Point = tuple[float, float]

_LONGEST_NAME = 30
MOST_CLASSES_LABELLED = 40
"""With more classes, a confusion matrix is drawn without names and only its largest mistakes are tabulated."""
MOST_CLASSES_DRAWN = 150
"""With more classes, it is not drawn: a page of megabytes would show specks."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what is written there."""

    place: float
    text: str


@dataclass(frozen=True)
class Box:
    """The area inside a chart's axes."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Cell:
    """A non-zero entry of the confusion matrix.

    ``share`` is that of the true class, ``strength`` in (0, 1] how strongly it is colored.
    """

    x: float
    y: float
    count: int
    right: bool
    strength: float
    share: float


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: rows are true classes, columns predicted ones; ``side`` is that of a cell."""

    width: float
    height: float
    box: Box
    side: float
    columns: list[Tick]
    rows: list[Tick]
    cells: list[Cell]
    counts_shown: bool
    labels_shown: bool


@dataclass(frozen=True)
class BarRow:
    """A group of bars: its name, and for each bar (style, y, width, text)."""

    name: str
    label_y: float
    bars: list[tuple[str, float, float, str]]


@dataclass(frozen=True)
class BarChart:
    """Groups of level bars, one below the other, that all start at ``box.left``."""

    width: float
    height: float
    box: Box
    thickness: float
    x_ticks: list[Tick]
    rows: list[BarRow]


@dataclass(frozen=True)
class Mark:
    """A bin of the reliability diagram: its point, and the ends of its 95% interval."""

    x: float
    y: float
    low_y: float
    high_y: float


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram under the reliability diagram."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Reliability:
    """Accuracy over confidence, before and after calibration, above a histogram of the confidences."""

    width: float
    height: float
    box: Box
    strip: Box
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    before: list[Mark]
    after: list[Mark]
    bars: list[Bar]


def bar_chart(
    groups: Sequence[str], values: Mapping[str, Sequence[float]], *, number: Callable[[float], str]
) -> BarChart:
    """Place groups of bars for shares of 1, each group below the other.

    Args:
        groups: Shape (n,).
        values: Style of a bar to the values of all groups, shape (n,), in [0, 1].
        number: How a value is written at the end of its bar, and at the axis.
    """
    thickness, gap = 11.0, 9.0
    pitch = thickness * len(values) + gap
    left = 14.0 + min(150.0, 6.8 * max(len(name) for name in groups))
    box = Box(left, 4.0, left + 440.0, 4.0 + pitch * len(groups))
    x = scale(0, 1, box.left, box.right)
    rows = []
    for i, name in enumerate(groups):
        top = box.top + i * pitch + gap / 2
        bars = [
            (style, top + j * thickness, x(row[i]) - box.left, number(row[i]))
            for j, (style, row) in enumerate(values.items())
        ]
        rows.append(BarRow(name, top + thickness * len(values) / 2, bars))
    ticks = [Tick(x(i / 5), number(i / 5)) for i in range(6)]
    return BarChart(box.right + 48.0, box.bottom + 24.0, box, thickness, ticks, rows)


def matrix(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Matrix:
    """Place a confusion matrix.

    The diagonal is colored by recall; the mistakes by their share of the true class against the largest such
    share, raised to 0.7: on the diagonal's scale a good classifier's mistakes could not be seen.
    """
    n = len(names)
    side = 50.0 if n <= 16 else max(6.0, 640.0 / n)
    margin = min(150.0, 14.0 + 6.8 * max(len(name) for name in names))
    box = Box(margin + 18, margin + 18, margin + 18 + n * side, margin + 18 + n * side)
    totals = [max(1, sum(row)) for row in confusion]
    shares = [[count / total for count in row] for row, total in zip(confusion, totals, strict=True)]
    worst = max((shares[i][j] for i in range(n) for j in range(n) if i != j), default=0.0) or 1.0
    cells = [
        Cell(
            box.left + j * side,
            box.top + i * side,
            confusion[i][j],
            right=i == j,
            strength=shares[i][j] if i == j else (shares[i][j] / worst) ** 0.7,
            share=shares[i][j],
        )
        for i in range(n)
        for j in range(n)
        if confusion[i][j]
    ]
    return Matrix(
        box.right + 4,
        box.bottom + 4,
        box,
        side,
        columns=[Tick(box.left + (i + 0.5) * side, name) for i, name in enumerate(names)],
        rows=[Tick(box.top + (i + 0.5) * side, name) for i, name in enumerate(names)],
        cells=cells,
        counts_shown=n <= 16,
        labels_shown=n <= MOST_CLASSES_LABELLED,
    )


def reliability_chart(before: Sequence[Bin], after: Sequence[Bin]) -> Reliability:
    """Place a reliability diagram of equal-width bins."""
    box, strip = Box(46.0, 14.0, 378.0, 274.0), Box(46.0, 292.0, 378.0, 336.0)
    x, y = scale(0, 1, box.left, box.right), scale(0, 1, box.bottom, box.top)
    total = sum(row["n"] for row in after)
    tallest = max(row["n"] for row in after) / total
    bars = []
    for row in after:
        tall = (strip.bottom - strip.top) * row["n"] / total / tallest
        left = x(row["lower"])
        bars.append(Bar(left + 1, strip.bottom - tall, x(row["upper"]) - left - 2, tall))

    def marks(rows: Sequence[Bin]) -> list[Mark]:
        known = [(r["confidence"], r["accuracy"], r["accuracy_ci95"]) for r in rows]
        return [
            Mark(x(confidence), y(accuracy), y(ends[0]), y(ends[1]))
            for confidence, accuracy, ends in known
            if confidence is not None and accuracy is not None and ends is not None
        ]

    fifths = [i / 5 for i in range(6)]
    return Reliability(
        400.0,
        376.0,
        box,
        strip,
        x_ticks=[Tick(x(v), percent(v, 0)) for v in fifths],
        y_ticks=[Tick(y(v), percent(v, 0)) for v in fifths],
        before=marks(before),
        after=marks(after),
        bars=bars,
    )


def shortened(name: str) -> str:
    """Return a name as it fits into a drawing, of at most 30 characters; in full it stands in the table."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def nice_ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Return round numbers, evenly spaced by 1, 2 or 5 times a power of ten, that enclose low and high.

    Example:
        >>> nice_ticks(0.83, 0.942)
        [0.8, 0.85, 0.9, 0.95]
    """
    if high <= low:
        pad = abs(low) * 0.1 or 0.1
        low, high = low - pad, high + pad
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def spread(places: Sequence[float], *, gap: float) -> list[float]:
    """Return ``places`` pushed down where needed, so that neighbors in order are at least ``gap`` apart."""
    result = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for above, below in pairwise(order):
        result[below] = max(result[below], result[above] + gap)
    return result


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Return the map of [low, high] onto [start, stop]; a single value lands in the middle."""
    if high == low:
        return lambda _: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)
