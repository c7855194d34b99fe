"""What is measured on a split: plain functions of arrays, in scikit-learn's names and conventions.

Labels and predictions are int64 indices of shape (n,), probabilities are (n, classes). Sums run in float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError

Labels = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

ECE_BINS = 15
"""Equal-width confidence bins, as in Guo et al., 2017, "On Calibration of Modern Neural Networks"."""
_Z_95 = 1.959963984540054


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Return the share of images whose prediction is their label."""
    _check_labels(labels, len(predicted))
    return float((labels == predicted).mean())


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion.

    Unlike the normal interval it stays inside [0, 1] and has a width when every answer is right.

    Source: Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Raises:
        DataError: ``n`` is zero, or ``correct`` is not within 0 to ``n``.
    """
    if not 0 <= correct <= n or n == 0:
        raise DataError(f"An interval needs 0 <= correct <= n and n > 0, but got correct={correct}, n={n}.")
    share, z2 = correct / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def confusion_matrix(labels: Labels, predicted: Labels, *, num_classes: int) -> NDArray[np.int64]:
    """Return counts of shape (classes, classes): a row is a true class, a column a predicted one."""
    _check_labels(labels, len(predicted), num_classes)
    cells = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, f1-score and support of each class, keyed by its name.

    A ratio without a denominator is 0, as with scikit-learn's ``zero_division=0``.
    """
    right = np.diag(confusion).astype(float)
    support, chosen = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(right, chosen), _ratio(right, support)
    f1 = _ratio(2 * right, support + chosen)
    return {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1-score": float(f1[i]),
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }


def averages(table: dict[str, dict[str, float]], confusion: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return scikit-learn's ``macro avg`` and ``weighted avg`` rows of a per-class table.

    A class that neither occurs nor is ever predicted takes no part, as in ``f1_score(..., average="macro")``.
    """
    rows = list(table.values())
    supports = np.array([row["support"] for row in rows], dtype=float)
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    result: dict[str, dict[str, float]] = {}
    for average, weights in (("macro avg", seen.astype(float)), ("weighted avg", supports)):
        result[average] = {
            key: float(np.average([row[key] for row in rows], weights=weights))
            for key in ("precision", "recall", "f1-score")
        }
        result[average]["support"] = int(supports.sum())
    return result


def macro_f1(labels: Labels, predicted: Labels, *, num_classes: int) -> float:
    """Return the mean F1 over the classes that occur or are predicted."""
    confusion = confusion_matrix(labels, predicted, num_classes=num_classes)
    table = per_class(confusion, [str(i) for i in range(num_classes)])
    return averages(table, confusion)["macro avg"]["f1-score"]


def nll(log_probabilities: Floats, labels: Labels) -> float:
    """Return the mean negative log-likelihood of the labels, in nats (scikit-learn's ``log_loss``).

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


def _ratio(above: Floats, below: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _check_labels(labels: Labels, n: int, num_classes: int | None = None) -> None:
    if len(labels) == 0:
        raise DataError("Nothing can be measured on a split without images.")
    if len(labels) != n:
        raise DataError(f"There are {len(labels)} labels but {n} predictions; each image needs one of both.")
    if num_classes is not None and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(f"Labels must be from 0 to {num_classes - 1}, but range from {labels.min()} to {labels.max()}.")
