"""From which probability a classifier should answer, so that its answers are as often right as is wanted.

The threshold is found on validation and measured on test. Where answers are just right often enough on validation,
they are right less often on other images half the time. So a threshold counts only where the lower bound of their
accuracy, with 90% confidence, reaches the target. Images of one probability are answered together or not at all.

Source: Geifman and El-Yaniv, 2017, "Selective Classification for Deep Neural Networks".
"""

import math
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.measures import score_interval, wilson_interval
from headstart.wording import percent, percent_short, significant

TARGETS = (0.9, 0.95, 0.98, 0.99)
"""Accuracies whose coverage is always reported, and among which one is chosen where none is asked for."""
_OF_USE = 0.5
"""Share of the validation images, at least, that are answered at a target that is chosen."""
_Z = 1.2816
"""Quantile 0.9 of the normal distribution, for lower bounds with 90% confidence."""


class Answered(TypedDict):
    """Images of a split that a classifier answers; ``accuracy`` and its interval are None where there are none."""

    n: int
    answered: int
    right: int
    coverage: float
    accuracy: float | None
    accuracy_ci95: list[float] | None


@dataclass(frozen=True)
class Judgement:
    """What a classifier said about the images of a split: the calibrated probability of each, and if it was right."""

    confidence: NDArray[np.floating[Any]]
    right: NDArray[np.bool_]


def threshold_for(target: float, val: Judgement) -> float | None:
    """Return the lowest probability from which validation shows the target; None where it does for no threshold.

    It has six decimals, rounded down so that the last image that it stands for is answered.
    """
    order = np.argsort(-val.confidence, kind="stable")
    confidence, right = val.confidence[order], val.right[order]
    answers = np.arange(1, len(right) + 1, dtype=np.float64)
    at_least, _ = score_interval(np.cumsum(right, dtype=np.float64), answers, _Z)
    whole = np.append(confidence[1:] < confidence[:-1], True)
    reached = np.flatnonzero(whole & (at_least >= target))
    if not len(reached):
        return None
    return math.floor(float(confidence[reached[-1]]) * 1e6) / 1e6


def answered(threshold: float | None, split: Judgement) -> Answered:
    """Return how many images of a split are answered from a threshold on, and how many of these are right."""
    chosen = np.zeros(len(split.right), bool) if threshold is None else split.confidence >= threshold
    count, right = int(chosen.sum()), int(split.right[chosen].sum())
    return {
        "n": len(split.right),
        "answered": count,
        "right": right,
        "coverage": round(count / len(split.right), 6),
        "accuracy": round(right / count, 6) if count else None,
        "accuracy_ci95": [round(end, 6) for end in wilson_interval(right, count)] if count else None,
    }


def answers_needed(target: float) -> int:
    """Return from how many answers on, all of them right, validation shows an accuracy.

    Example:
        >>> answers_needed(0.95), answers_needed(0.99)
        (32, 163)
    """
    return math.ceil(_Z**2 * target / (1 - target))


def measure_abstention(target: float | None, val: Judgement, test: Judgement) -> dict[str, Any]:
    """Return the block ``abstention`` of ``metrics.json``.

    Args:
        target: Accuracy that the shipped threshold stands for. When None, the strictest of ``TARGETS`` that validation
            supports while at least half of its images are answered; the most lenient where there is none.
        val: The validation split, on which target and thresholds are found.
        test: The test split, on which they are measured.
    """
    rows: list[dict[str, Any]] = []
    for wanted in sorted({*TARGETS, TARGETS[0] if target is None else target}):
        threshold = threshold_for(wanted, val)
        rows.append(
            {
                "target": wanted,
                "threshold": threshold,
                "val": answered(threshold, val),
                "test": answered(threshold, test),
                "answers_needed": answers_needed(wanted),
            }
        )
    of_use = [row["target"] for row in rows if row["val"]["coverage"] >= _OF_USE]
    suggested = max((found for found in of_use if found in TARGETS), default=TARGETS[0])
    return {"target": suggested if target is None else target, "suggested": suggested, "rows": rows}


def row_of(target: float, block: dict[str, Any]) -> dict[str, Any]:
    """Return what ``measure_abstention`` found for one of its targets."""
    found: dict[str, Any] = next(row for row in block["rows"] if row["target"] == target)
    return found


def missed_on_test(row: dict[str, Any]) -> bool:
    """Return whether the test split refutes a target: the 95% interval of the accuracy there lies wholly below it."""
    interval = row["test"]["accuracy_ci95"]
    return interval is not None and interval[1] < row["target"]


def about_others(block: dict[str, Any]) -> str:
    """Return what the strictest target would take, or what one costs that was asked for; nothing where neither is news.

    Example:
        >>> val = Judgement(np.linspace(1, 0, 100), np.arange(100) % 20 > 0)
        >>> about_others(measure_abstention(None, val, val))
        '99% would take about 160 validation images or more'
        >>> about_others(measure_abstention(0.99, val, val))
        '90% (--abstain 0.9) would make 100.0% of the validation images sure'
    """
    suggested, strictest = block.get("suggested"), TARGETS[-1]
    # Runs of early versions were told no target.
    if suggested is None or block["target"] < suggested or suggested == strictest:
        return ""
    there = row_of(suggested, block)["val"]
    if block["target"] > suggested:
        share = percent(there["coverage"], 1)
        return f"{percent_short(suggested)} (--abstain {suggested}) would make {share} of the validation images sure"
    # At a stricter target no larger share is answered.
    images = answers_needed(strictest) / (there["coverage"] or 1)
    if images > there["n"]:
        rounded = float(significant(images, 2))
        return f"{percent_short(strictest)} would take about {rounded:,.0f} validation images or more"
    share = percent(row_of(strictest, block)["val"]["coverage"], 1)
    return f"{percent_short(strictest)} would make {share} of the validation images sure"
