"""Two classifiers on the same images: how far apart they are, and how far chance alone would put them.

Everything is paired, image by image, which is what makes small differences visible: images that both get right or
both get wrong say nothing about which is better. Arrays are int64 class indices of shape (n,).

The exact test and Cohen's kappa are a line each here, because scipy.stats and scikit-learn take longer to load than
all comparisons of a dozen runs take to compute; the tests hold both against those libraries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

ALPHA = 0.05
"""A smaller p-value than this counts as a difference; intervals cover 1 - ALPHA."""

RESAMPLES = 10_000
"""Bootstrap samples: the ends of an interval then move by about a hundredth of its width from seed to seed."""

_NUMBERS_AT_ONCE = 4_000_000
"""Resampled counts held in memory together: 32 MB."""


@dataclass(frozen=True)
class Change:
    """A difference, second minus first, with the ends of its 95% interval; in shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassChange:
    """One class. Figures are (first, second); None where there is nothing to divide by.

    Attributes:
        support: Images of the class.
        recall: Share of them that each found.
        f1: F1 score of each.
        recall_change: Second minus first.
        f1_change: Second minus first.
        first_only: Images of the class that only the first gets right.
        second_only: Images of the class that only the second gets right.
    """

    support: int
    recall: tuple[float | None, float | None]
    f1: tuple[float | None, float | None]
    recall_change: Change | None
    f1_change: Change | None
    first_only: int
    second_only: int


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same ``n`` images.

    Attributes:
        n: Images.
        accuracy: Change in accuracy.
        macro_f1: Change in macro F1.
        both_right: Images that both get right.
        first_only: Images that only the first gets right.
        second_only: Images that only the second gets right.
        both_wrong: Images that both get wrong.
        p_value: p-value of McNemar's exact test.
        smallest_gap: Smallest difference in accuracy that would have been significant with as many images that
            only one gets right; None where no difference would have been.
        agreement: Share of images that both give the same class, right or wrong.
        kappa: Cohen's kappa of the two; None when both give every image the same single class.
        classes: One entry a class, in index order.
    """

    n: int
    accuracy: Change
    macro_f1: Change
    both_right: int
    first_only: int
    second_only: int
    both_wrong: int
    p_value: float
    smallest_gap: float | None
    agreement: float
    kappa: float | None
    classes: tuple[ClassChange, ...]


def compare_predictions(
    labels: Indices, first: Indices, second: Indices, *, num_classes: int, resamples: int = RESAMPLES, seed: int = 0
) -> PairedComparison:
    """Compare two classifiers on the same images, at least one."""
    n = len(labels)
    right, other_right = first == labels, second == labels
    first_only, second_only = right & ~other_right, other_right & ~right
    lost, gained = int(first_only.sum()), int(second_only.sum())
    gap = smallest_significant_gap(lost + gained)
    cells = _count_cells(labels, first, second, num_classes)
    scores = _scores(cells, cells.counts[None, :])
    resampled = _bootstrap(cells, resamples, seed)
    chosen = (slice(None), first_only, second_only)
    by_class = np.stack([np.bincount(labels[mask], minlength=num_classes) for mask in chosen], axis=1).tolist()
    return PairedComparison(
        n=n,
        accuracy=_with_exact_limits(_change(np.diff(scores.accuracy, axis=0)[0], resampled.accuracy), lost, gained, n),
        macro_f1=_with_exact_limits(_change(np.diff(scores.macro_f1, axis=0)[0], resampled.macro_f1), lost, gained, n),
        both_right=int((right & other_right).sum()),
        first_only=lost,
        second_only=gained,
        both_wrong=int((~right & ~other_right).sum()),
        p_value=mcnemar_p_value(lost, gained),
        smallest_gap=None if gap is None else gap / n,
        agreement=float((first == second).mean()),
        kappa=cohen_kappa(first, second, num_classes=num_classes),
        classes=tuple(_class_change(scores, resampled, i, *counts) for i, counts in enumerate(by_class)),
    )


def mcnemar_p_value(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Were the two equally good, each image that only one gets right would be a fair coin's toss between them. The test
    is exact at any count, so no correction for continuity is needed and no smallest count either.

    Source: McNemar, 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    fewer, tosses = min(first_only, second_only), first_only + second_only
    return min(1.0, 2.0 * float(scipy.special.bdtr(fewer, tosses, 0.5)))


def smallest_significant_gap(tosses: int, *, alpha: float = ALPHA) -> int | None:
    """Return the smallest |first_only - second_only| that is significant when their sum is ``tosses``, or None."""
    fewer = np.arange(tosses // 2 + 1)
    significant = np.flatnonzero(2.0 * scipy.special.bdtr(fewer, tosses, 0.5) < alpha)
    return tosses - 2 * int(significant[-1]) if len(significant) else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for there being several, in the same order.

    Among twenty comparisons of equals one p-value below 0.05 is to be expected. After Holm's correction the chance of
    one such mistake or more is at most 5%, whatever the dependence between them.

    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for place, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = floor
    return corrected


def cohen_kappa(first: Indices, second: Indices, *, num_classes: int) -> float | None:
    """Return the agreement beyond what the two would have by chance: 1 is perfect, 0 is none; None if undefined.

    Source: Cohen, 1960, "A coefficient of agreement for nominal scales".
    """
    shares = (np.bincount(found, minlength=num_classes) / len(found) for found in (first, second))
    by_chance = float(np.dot(*shares))
    return (float((first == second).mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else None


@dataclass(frozen=True)
class _Cells:
    """The distinct (label, first, second) triples, each of shape (cells,), and how many images are in each."""

    labels: Indices
    first: Indices
    second: Indices
    counts: Indices
    num_classes: int


class _Scores(NamedTuple):
    """What follows from counts of cells, for ``r`` samples at once; NaN where there is nothing to divide by.

    Shapes are (2, r) and, for each class, (2, r, classes), for first and second; without the leading 2 where the
    arrays hold second minus first.
    """

    accuracy: Floats
    macro_f1: Floats
    recall: Floats
    f1: Floats


def _count_cells(labels: Indices, first: Indices, second: Indices, num_classes: int) -> _Cells:
    codes, counts = np.unique((labels * num_classes + first) * num_classes + second, return_counts=True)
    return _Cells(codes // num_classes**2, codes // num_classes % num_classes, codes % num_classes, counts, num_classes)


def _bootstrap(cells: _Cells, resamples: int, seed: int) -> _Scores:
    """Return the differences in samples of as many images, drawn with replacement and with pairs kept together.

    Images in one cell can't be told apart by any of the scores, so that drawing images is drawing how many of them
    fall into each cell: one multinomial draw of a few hundred numbers a sample instead of n.
    """
    generator = np.random.default_rng(seed)
    n, shares = int(cells.counts.sum()), cells.counts / cells.counts.sum()
    at_once = max(1, _NUMBERS_AT_ONCE // len(shares))
    parts = []
    for start in range(0, resamples, at_once):
        drawn = generator.multinomial(n, shares, size=min(at_once, resamples - start))
        parts.append([np.diff(both, axis=0)[0] for both in _scores(cells, drawn)])
    return _Scores(*map(np.concatenate, zip(*parts, strict=True)))


def _scores(cells: _Cells, counts: Indices) -> _Scores:
    """Return the scores of samples given as counts of cells, shape (r, cells)."""
    support = _sum_by_class(counts, cells.labels, cells.num_classes)
    right, recall, f1 = [], [], []
    for said in (cells.first, cells.second):
        right.append(_sum_by_class(counts * (said == cells.labels), cells.labels, cells.num_classes))
        recall.append(_divide(right[-1], support))
        f1.append(_divide(2 * right[-1], support + _sum_by_class(counts, said, cells.num_classes)))
    # A class that neither occurs nor is ever predicted takes no part in the mean, as in metrics.averages.
    accuracy = np.sum(right, axis=2) / counts.sum(axis=1)
    return _Scores(accuracy, np.nanmean(f1, axis=2), np.stack(recall), np.stack(f1))


def _sum_by_class(counts: Indices, classes: Indices, num_classes: int) -> Indices:
    """Return counts of shape (r, cells) summed over the cells of each class: shape (r, classes)."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    sums = np.zeros((len(counts), num_classes), dtype=np.int64)
    sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums


def _divide(part: Indices, whole: Indices) -> Floats:
    quotients: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotients


def _change(actual: Floats, resampled: Floats) -> Change:
    """Return a difference with the percentile interval of its resampled values; arrays of shape (1,) and (r,)."""
    low, high = np.percentile(resampled, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return Change(float(actual[0]), float(low), float(high))


def _with_exact_limits(change: Change, lost: int, gained: int, n: int) -> Change:
    """Widen the interval of an accuracy or recall where exact limits lie further out; F1 is no surer than these.

    Resampling can't draw what did not occur: ten images of which none was lost would show that none ever is. The limits
    of the share lost, and of the share gained, are those of Clopper and Pearson.
    """
    most_lost, most_gained = (
        1.0 if count == n else float(scipy.special.betaincinv(count + 1, n - count, 1 - ALPHA / 2))
        for count in (lost, gained)
    )
    low = max(-1.0, min(change.low, change.value + lost / n - most_lost))
    high = min(1.0, max(change.high, change.value + most_gained - gained / n))
    return replace(change, low=low, high=high)


def _class_change(
    scores: _Scores, resampled: _Scores, i: int, support: int, first_only: int, second_only: int
) -> ClassChange:
    def both(of_classes: Floats) -> tuple[float | None, float | None]:
        first, second = (None if np.isnan(score) else float(score) for score in of_classes[:, 0, i])
        return first, second

    def change(of_classes: Floats, drawn: Floats) -> Change | None:
        # A rare class is missing from some samples, which then say nothing about it.
        known = drawn[:, i][~np.isnan(drawn[:, i])]
        actual = of_classes[1, :, i] - of_classes[0, :, i]
        if np.isnan(actual[0]) or len(known) == 0:
            return None
        found = _change(actual, known)
        return _with_exact_limits(found, first_only, second_only, support) if support else found

    return ClassChange(
        support=support,
        recall=both(scores.recall),
        f1=both(scores.f1),
        recall_change=change(scores.recall, resampled.recall),
        f1_change=change(scores.f1, resampled.f1),
        first_only=first_only,
        second_only=second_only,
    )
