"""What is measured on a split: plain functions of arrays, in scikit-learn's names and conventions.

Labels and predictions are int64 indices of shape (n,), probabilities are (n, classes). Counting is left to
scikit-learn and intervals to scipy. Ours are the likelihood, because scikit-learn's ``log_loss`` takes probabilities,
in which a confident mistake has been rounded to 0, and the calibration bins, because its ``calibration_curve`` tells
neither how many images a bin holds nor which bins are empty, and no library of ours has the calibration error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray
from scipy.stats import binomtest

from headstart.errors import DataError

Labels = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

ECE_BINS = 15
"""Equal-width confidence bins, as in Guo et al., 2017, "On Calibration of Modern Neural Networks"."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion; ``n`` is at least 1.

    Unlike the normal interval it stays inside [0, 1] and has a width when every answer is right.

    Source: Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(labels: Labels, predicted: Labels, *, num_classes: int) -> NDArray[np.int64]:
    """Return counts of shape (classes, classes): a row is a true class, a column a predicted one.

    Raises:
        DataError: No images, or labels that do not fit; scikit-learn would leave those out in silence.
    """
    _check_labels(labels, len(predicted), num_classes)
    counts: NDArray[np.int64] = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(num_classes))
    return counts


def per_class(labels: Labels, predicted: Labels, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, f1-score and support of each class, keyed by its name, as ``classification_report``.

    A ratio without a denominator is 0. The report itself is not called, because it keeps classes and averages in one
    dictionary, where a class named 'accuracy' would be lost.
    """
    _check_labels(labels, len(predicted), len(names))
    columns = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1-score": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    }


def averages(labels: Labels, predicted: Labels) -> dict[str, dict[str, float]]:
    """Return the rows ``macro avg`` and ``weighted avg`` that belong below ``per_class``.

    A class that neither occurs nor is ever predicted takes no part, as in ``f1_score(..., average="macro")``.
    """
    _check_labels(labels, len(predicted))
    result: dict[str, dict[str, float]] = {}
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        result[f"{average} avg"] = {
            "precision": float(precision),
            "recall": float(recall),
            "f1-score": float(f1),
            "support": len(labels),
        }
    return result


def nll(log_probabilities: Floats, labels: Labels) -> float:
    """Return the mean negative log-likelihood of the labels, in nats.

    Takes logarithms, not probabilities, so that a confident mistake costs what it should instead of infinity.
    """
    _check_labels(labels, len(log_probabilities), log_probabilities.shape[1])
    chosen = np.take_along_axis(log_probabilities, labels[:, None], axis=1)
    return float(-chosen.mean(dtype=np.float64))


def reliability(probabilities: Floats, labels: Labels, *, bins: int = ECE_BINS) -> list[dict[str, Any]]:
    """Return one row per equal-width bin of confidence: (lower, upper], n, and the means inside it.

    Confidence is an image's largest probability. ``confidence``, ``accuracy`` and its ``accuracy_ci95`` are
    None in an empty bin.
    """
    _check_labels(labels, len(probabilities), probabilities.shape[1])
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows: list[dict[str, Any]] = []
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


def ece(probabilities: Floats, labels: Labels, *, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over the bins.

    Source: Guo et al., 2017, equation 3, with 15 equal-width bins.
    """
    filled = [row for row in reliability(probabilities, labels, bins=bins) if row["n"]]
    return float(sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / len(labels))


def _check_labels(labels: Labels, n: int, num_classes: int | None = None) -> None:
    if len(labels) == 0:
        raise DataError("Nothing can be measured on a split without images.")
    if len(labels) != n:
        raise DataError(f"There are {len(labels)} labels but {n} predictions; each image needs one of both.")
    if num_classes is not None and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(f"Labels must be from 0 to {num_classes - 1}, but range from {labels.min()} to {labels.max()}.")
