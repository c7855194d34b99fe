"""What is measured on a split: plain functions of arrays, in scikit-learn's names and conventions.

Labels and predictions are int64 indices of shape (n,).

Everything follows from the confusion matrix and a few sums, so it is written in numpy. scikit-learn and scipy.stats
take 1.5 s to import, more than measuring 10,000 images takes, and ``headstart train`` would pay for them in every
run; the tests hold each function against both libraries.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError
from headstart.tasks.metrics import Bin, ClassFigures

Labels = NDArray[np.int64]
_Floats = TypeVar("_Floats", float, NDArray[np.float64])

ECE_BINS = 15
"""Equal-width confidence bins, as in Guo et al., 2017, "On Calibration of Modern Neural Networks"."""

_Z = 1.959963984540054
"""Quantile 0.975 of the normal distribution, for intervals of 95%."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion; ``n`` is at least 1.

    Unlike the normal interval it stays inside [0, 1] and has a width when every prediction is right.

    Source: Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    low, high = score_interval(float(correct), float(n), _Z)
    # Where all are right, or none, rounding would leave the end beside its exact value.
    return 0.0 if correct == 0 else low, 1.0 if correct == n else high


def score_interval(correct: _Floats, n: _Floats, z: float) -> tuple[_Floats, _Floats]:
    """Return Wilson's interval of proportions, of numbers or arrays of them, ``z`` standard deviations to each side."""
    share, widened = correct / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / widened
    half = z / widened * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return centre - half, centre + half


def confusion_matrix(labels: Labels, predicted: Labels, *, num_classes: int) -> NDArray[np.int64]:
    """Return counts of shape (classes, classes): a row is a true class, a column a predicted one.

    Raises:
        DataError: No images, or labels that do not fit.
    """
    check_labels(labels, len(predicted), num_classes)
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def mean_recall(right: NDArray[np.bool_], labels: Labels) -> float:
    """Return the mean recall of the classes that have images: balanced accuracy, as in scikit-learn."""
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, ClassFigures]:
    """Return precision, recall, F1 score and support of each class, keyed by its name.

    A ratio without a denominator is 0.
    """
    support = confusion.sum(axis=1).tolist()
    columns = (column.tolist() for column in _ratios(confusion))
    return {
        name: {"precision": precision, "recall": recall, "f1-score": f1, "support": count}
        for name, precision, recall, f1, count in zip(names, *columns, support, strict=True)
    }


def averages(confusion: NDArray[np.int64]) -> tuple[ClassFigures, ClassFigures]:
    """Return the rows ``macro avg`` and ``weighted avg`` that belong below ``per_class``.

    A class that neither occurs nor is ever predicted is left out, as in ``f1_score(..., average="macro")``.
    """
    support = confusion.sum(axis=1)
    occurs = (support + confusion.sum(axis=0)) > 0
    ratios = [column[occurs] for column in _ratios(confusion)]
    macro, weighted = (
        [float(np.average(column, weights=weights)) for column in ratios] for weights in (None, support[occurs])
    )
    n = int(support.sum())
    return _row(macro, n), _row(weighted, n)


def _row(values: Sequence[float], support: int) -> ClassFigures:
    precision, recall, f1 = values
    return {"precision": precision, "recall": recall, "f1-score": f1, "support": support}


def _ratios(confusion: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return precision, recall and F1 of each class, shape (classes,) each."""
    right, support, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    parts = ((right, said), (right, support), (2 * right, support + said))
    return [np.divide(a, b, out=np.zeros(len(right)), where=b > 0) for a, b in parts]


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = ECE_BINS) -> list[Bin]:
    """Return one row per equal-width bin of confidence: (lower, upper], n, and the means inside it.

    ``confidence``, ``accuracy`` and its ``accuracy_ci95`` are None in an empty bin.

    Args:
        confidence: Largest probability of each image, shape (n,).
        correct: Whether its prediction is its label, shape (n,).
        bins: Number of bins.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows: list[Bin] = []
    for i in range(bins):
        inside = place == i
        n = int(inside.sum())
        rows.append(
            {
                "lower": float(edges[i]),
                "upper": float(edges[i + 1]),
                "n": n,
                "confidence": float(confidence[inside].mean()) if n else None,
                "accuracy": float(correct[inside].mean()) if n else None,
                "accuracy_ci95": list(wilson_interval(int(correct[inside].sum()), n)) if n else None,
            }
        )
    return rows


def ece(rows: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over the bins.

    Source: Guo et al., 2017, equation 3, with 15 equal-width bins.
    """
    gaps = [
        row["n"] * abs(row["accuracy"] - row["confidence"])
        for row in rows
        if row["accuracy"] is not None and row["confidence"] is not None
    ]
    return float(sum(gaps) / sum(row["n"] for row in rows))


def check_labels(labels: Labels, n: int, num_classes: int) -> None:
    """Raise DataError for labels that can't be those of ``n`` predictions, or where there are none."""
    if len(labels) == 0:
        raise DataError("Nothing can be measured on a split without images.")
    if len(labels) != n:
        raise DataError(f"There are {len(labels)} labels but {n} predictions; each image needs one of both.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"Labels must be from 0 to {num_classes - 1}, but range from {labels.min()} to {labels.max()}.")
