"""Accuracy on the images that a classifier is confident about, by the share of images that they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.report import curves
from headstart.runs.predictions import PredictionRow
from headstart.tasks.abstention import about_others, missed_on_test, row_of
from headstart.wording import percent, percent_short

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_POINTS = 200


@dataclass(frozen=True)
class Threshold:
    """What remains when images below a probability are left out.

    Attributes:
        probability: Probability from which images are classified.
        classified: Images that are classified.
        coverage: Their share of all images.
        wrong: Mistakes among them.
        accuracy: Accuracy on them; None where there are none.
    """

    probability: float
    classified: int
    coverage: float
    wrong: int
    accuracy: float | None


def coverage(predictions: Sequence[PredictionRow]) -> dict[str, Any]:
    """Return the curve of accuracy over coverage, a table at fixed thresholds, and targets that can be met."""
    probability = np.array([p.probability for p in predictions])
    right = np.array([p.predicted == p.label for p in predictions])
    order = np.argsort(-probability, kind="stable")
    probability, right = probability[order], right[order]
    share = np.arange(1, len(right) + 1) / len(right)
    accuracy = np.cumsum(right) / np.arange(1, len(right) + 1)
    rows = [_at(threshold, probability, right) for threshold in THRESHOLDS]
    # Images of one probability are classified together or not at all.
    whole = np.append(probability[1:] < probability[:-1], True)
    return {
        "rows": rows,
        "targets": _targets(probability[whole], share[whole], accuracy[whole]),
        "chart": _chart(share, accuracy, rows),
    }


def thresholds(block: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the thresholds that were chosen on validation, as the page shows them; None where there are none."""
    if block is None:
        return None
    block = block | {"rows": [row | {"missed": missed_on_test(row)} for row in block["rows"]]}
    return block | {"shipped": row_of(block["target"], block), "others": about_others(block)}


def _at(threshold: float, probability: Any, right: Any) -> Threshold:
    classified = int((probability >= threshold).sum())
    wrong = int((~right[:classified]).sum())
    accuracy = 1 - wrong / classified if classified else None
    return Threshold(threshold, classified, classified / len(right), wrong, accuracy)


def _targets(probability: Any, share: Any, accuracy: Any) -> list[tuple[float, float, float]]:
    """Return (accuracy wanted, largest coverage that has it, its probability) for the next two targets within reach."""
    found = []
    for target in TARGETS:
        reached = np.flatnonzero(accuracy >= target)
        if target > accuracy[-1] and len(reached):
            found.append((target, float(share[reached[-1]]), float(probability[reached[-1]])))
    return found[:2]


def _chart(share: Any, accuracy: Any, rows: Sequence[Threshold]) -> curves.CurveChart:
    # The first few images decide nothing, but would set the scale.
    start = min(len(share) - 1, len(share) // 20)
    shown = np.unique(np.linspace(start, len(share) - 1, _POINTS).round().astype(int))
    marks, last = [], 1.1
    for row in rows:
        if (
            row.accuracy is not None
            and row.probability
            and row.coverage >= share[start]
            and last - row.coverage > 0.075
        ):
            marks.append((row.coverage, row.accuracy, percent_short(row.probability)))
            last = row.coverage
    # An axis around a single value would go beyond 100%.
    flat = accuracy[start] if len(set(accuracy[shown])) == 1 else None
    return curves.curve_chart(
        {"": [(float(share[i]), float(accuracy[i])) for i in shown]},
        styles=["validation"],
        x_ticks={i / 5: percent(i / 5, 0) for i in range(6)},
        number=percent_short,
        marks=marks,
        y_also=None if flat is None else float(flat - 0.1 if flat > 0.5 else flat + 0.1),
    )
