"""What a paired comparison comes to, in one plain sentence made from its numbers."""

from collections.abc import Sequence
from typing import Literal

from headstart.evaluation.comparison import ALPHA, Change, PairedComparison
from headstart.wording import p_text, signed_points

Verdict = Literal["same answers", "noise", "luck of the seed", "first", "second"]
"""``first`` and ``second`` name the better one; ``luck of the seed`` is a clear gap between runs of one recipe."""

_MANY_TIMES = 1.15
"""From this ratio on, a difference in cost is worth a word."""


def decide(comparison: PairedComparison, *, p_value: float, same_recipe: bool) -> Verdict:
    """Return what may be concluded.

    Args:
        comparison: Of the two.
        p_value: McNemar's, corrected where there are several pairs.
        same_recipe: Whether the two were made alike but for the seed. Then a clear gap shows that training is a
            lottery, not that one recipe is better than itself.
    """
    if comparison.agreement == 1:
        return "same answers"
    if p_value >= ALPHA:
        return "noise"
    if same_recipe:
        return "luck of the seed"
    return "second" if comparison.accuracy.value > 0 else "first"


def sentence(
    verdict: Verdict,
    comparison: PairedComparison,
    *,
    first: str,
    second: str,
    class_names: Sequence[str],
    p_value: float,
    cost_ratio: float | None = None,
) -> str:
    """Return the verdict in words.

    Args:
        verdict: What ``decide`` said.
        comparison: Of the two.
        first: Name of the first.
        second: Name of the second.
        class_names: In index order.
        p_value: The one that decided, corrected where there are several.
        cost_ratio: Training time of the second in units of the first's, where both are known and comparable.
    """
    gap = f"{_points(abs(comparison.accuracy.value))} ({_range(comparison.accuracy)}; {p_text(p_value)})"
    if verdict == "same answers":
        return f"{first} and {second} gave the same answer for each of the {comparison.n:,} images."
    if verdict == "noise":
        return (
            f"The difference between {first} and {second} is noise: {signed_points(comparison.accuracy.value)} points "
            f"({_range(comparison.accuracy)}; {p_text(p_value)}).{_needed(comparison, p_value)}"
        )
    if verdict == "luck of the seed":
        above, below = (second, first) if comparison.accuracy.value > 0 else (first, second)
        return (
            f"{above} lies {_points(abs(comparison.accuracy.value))} above {below} ({p_text(p_value)}), more than the "
            "choice of test images explains, but nothing that decides a result differs between their recipes except "
            "the seed: this is the luck of training, and says nothing for either recipe."
        )
    gained = verdict == "second"
    cost = _cost(cost_ratio)
    return (
        f"{second} is {'better' if gained else 'worse'} than {first}: it {'gained' if gained else 'lost'} "
        f"{gap}{cost}{_extreme_class(comparison, class_names, gained)}."
    )


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _range(change: Change) -> str:
    return f"95 % interval {signed_points(change.low)} to {signed_points(change.high)}"


def _needed(comparison: PairedComparison, p_value: float) -> str:
    """Return which gap would have been significant; nothing where the p-value is corrected, as that gap is not."""
    if p_value != comparison.p_value:
        return ""
    tosses = comparison.first_only + comparison.second_only
    images = f"{tosses:,} image{'' if tosses == 1 else 's'} that only one of them names rightly"
    if comparison.smallest_gap is None:
        return f" With {images}, no difference could have been told from chance."
    return f" With {images}, only a gap of {_points(comparison.smallest_gap)} or more could be told from chance."


def _cost(ratio: float | None) -> str:
    if ratio is None:
        return ""
    if ratio >= _MANY_TIMES:
        return f" for {ratio:.1f} times the training time"
    return f" for {ratio:.2f} times the training time" if ratio <= 1 / _MANY_TIMES else " for the same training time"


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
    return f"; {name} {'gained' if gained else 'lost'} most ({signed_points(value)} points of F1)"
