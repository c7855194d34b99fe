"""What a paired comparison comes to: a verdict, and a plain sentence made from its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headstart.evaluation.comparison import ALPHA, PairedComparison
from headstart.wording import (
    counted,
    in_training_time,
    p_text,
    points,
    points_range,
    quoted,
    signed_points,
)

Verdict = Literal["same answers", "noise", "luck of the seed", "first", "second"]
"""``first`` and ``second`` name the better one; ``noise`` says that the test images can't tell which is better;
``luck of the seed`` is a clear difference between runs of one recipe."""


@dataclass(frozen=True)
class Pair:
    """Two runs and what is known of them besides their predictions.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        class_names: Names of the classes in index order.
        same_recipe: Whether the recipes differ in nothing but the seed. Then a clear difference shows how much training
            varies, not that one recipe is better than itself.
        cost_ratio: Training time of the second in units of the first's, where both are known and comparable.
    """

    first: str
    second: str
    class_names: Sequence[str]
    same_recipe: bool = False
    cost_ratio: float | None = None


def decide(comparison: PairedComparison, *, p_value: float, same_recipe: bool) -> Verdict:
    """Return what may be concluded."""
    if comparison.agreement == 1:
        return "same answers"
    if p_value >= ALPHA:
        return "noise"
    if same_recipe:
        return "luck of the seed"
    return "second" if comparison.accuracy.value > 0 else "first"


def conclusion(verdict: Verdict, pair: Pair) -> str:
    """Return the verdict in a few words, for a table."""
    better = {"first": f"{pair.first} is better", "second": f"{pair.second} is better"}
    return {**better, "noise": "undecided", "same answers": "same predictions"}.get(verdict, verdict)


def sentence(verdict: Verdict, comparison: PairedComparison, pair: Pair, *, p_value: float) -> str:
    """Return the verdict in words."""
    change = comparison.accuracy
    ends = (change.low, change.high)
    if verdict == "same answers":
        return f"{pair.first} and {pair.second} made the same prediction for each of {counted(comparison.n, 'image')}."
    if verdict == "noise":
        return (
            f"The test images can't tell whether {pair.first} or {pair.second} is better: the measured difference is "
            f"{signed_points(change.value)} points ({p_text(p_value)}), but the true one could be anything from "
            f"{points_range(ends)} points.{_needed(comparison, p_value)}"
        )
    if verdict == "luck of the seed":
        above, below = (pair.second, pair.first) if change.value > 0 else (pair.first, pair.second)
        return (
            f"{above} is {points(change.value)} more accurate than {below} ({p_text(p_value)}), more than the choice "
            "of test images explains. Their recipes differ in nothing but the seed, so the difference is the luck of "
            "training and no evidence for either recipe."
        )
    gained = verdict == "second"
    cost = "" if pair.cost_ratio is None else f", {in_training_time(pair.cost_ratio)}"
    return (
        f"{pair.second} is {'better' if gained else 'worse'} than {pair.first} by {points(change.value)} "
        f"(95% interval of the change {points_range(ends)}; {p_text(p_value)}){cost}"
        f"{_extreme_class(comparison, pair.class_names, gained)}."
    )


def _needed(comparison: PairedComparison, p_value: float) -> str:
    """Return which difference would have been significant; nothing where the p-value is corrected."""
    if p_value != comparison.p_value:
        return ""
    images = counted(comparison.first_only + comparison.second_only, "image")
    if comparison.smallest_gap is None:
        return f" Exactly one of them is right on {images}; with so few, no difference would be significant."
    return (
        f" Exactly one of them is right on {images}; with so many, only a difference of "
        f"{points(comparison.smallest_gap)} or more would be significant."
    )


def _extreme_class(comparison: PairedComparison, class_names: Sequence[str], gained: bool) -> str:
    """Return which class moved furthest in the direction of the verdict, if any did."""
    changes = [
        (found.f1_change.value, name)
        for found, name in zip(comparison.classes, class_names, strict=True)
        if found.f1_change is not None
    ]
    value, name = max(changes) if gained else min(changes)
    if (value > 0) is not gained or value == 0:
        return ""
    return f"; {quoted(name)} {'improved' if gained else 'lost'} most ({signed_points(value)} points of F1)"
