"""One label per image: cross-entropy, accuracy, one temperature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from headstart.tasks import measures
from headstart.tasks.calibration import fit_temperature, judge, probabilities
from headstart.tasks.metrics import METRICS, Metric, SplitMetrics
from headstart.tasks.task import Task


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of a batch, in nats.

    With class weights the mean is weighted: each image counts by the weight of its classes, whether its target is an
    index or, after mixup or cutmix, a share of each class. torch alone divides by the number of images in the second
    case, which rescales the loss by the mean weight.

    Args:
        logits: Shape (n, classes).
        targets: Indices of shape (n,), or shares of shape (n, classes) that sum to 1.
        label_smoothing: Share of each target that is spread over all classes.
        class_weights: Weight of each class, shape (classes,).
    """
    if class_weights is None or targets.dim() == 1:
        return F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)
    total = F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing, reduction="sum")
    return total / (targets @ class_weights).sum()


@dataclass(frozen=True)
class SingleLabel:
    """The task of giving each image exactly one class.

    Attributes:
        metrics: What is measured, in the order in which it is shown.
    """

    metrics: tuple[Metric, ...] = METRICS

    def loss(
        self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy of a batch; see ``cross_entropy``."""
        return cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)

    def probabilities(self, logits: NDArray[np.floating[Any]], *, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return the softmax of logits of shape (n, classes) divided by the temperature."""
        return probabilities(logits, temperature=temperature)

    def calibrate(self, logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
        """Return the temperature that makes ``labels`` likeliest, with six decimals; see ``fit_temperature``."""
        return round(fit_temperature(logits, labels), 6)

    def measure(
        self,
        logits: NDArray[np.floating[Any]],
        labels: NDArray[np.int64],
        *,
        names: Sequence[str],
        temperature: float = 1.0,
        given: NDArray[np.float32] | None = None,
    ) -> SplitMetrics:
        """Measure a classifier on one split; figures have six decimals.

        ``nll`` and ``ece`` are those of the plain softmax; ``nll_calibrated`` and ``ece_calibrated`` those of the
        probabilities that the classifier gives out, after temperature scaling: ``given``, shape (n, classes), where it
        has computed them itself.

        Raises:
            DataError: No images, or labels that do not fit.
        """
        plain, calibrated = judge(logits, labels), judge(logits, labels, temperature=temperature, given=given)
        confusion = measures.confusion_matrix(labels, calibrated.predicted, num_classes=len(names))
        macro, weighted = measures.averages(confusion)
        correct = int(np.trace(confusion))
        before, after = (measures.reliability(of.confidence, of.predicted == labels) for of in (plain, calibrated))
        figures = {
            "accuracy": correct / len(labels),
            "accuracy_ci95": list(measures.wilson_interval(correct, len(labels))),
            "n": len(labels),
            "macro_f1": macro["f1-score"],
            "nll": float(plain.loss.mean()),
            "nll_calibrated": float(calibrated.loss.mean()),
            "ece": measures.ece(before),
            "ece_calibrated": measures.ece(after),
            "ece_bins": measures.ECE_BINS,
            "per_class": measures.per_class(confusion, names),
            "macro_avg": macro,
            "weighted_avg": weighted,
            "confusion_matrix": confusion.tolist(),
            "reliability": before,
            "reliability_calibrated": after,
        }
        return SplitMetrics(**_rounded(figures))


SINGLE_LABEL: Task = SingleLabel()
"""The task of every classifier so far."""


def _rounded(value: Any) -> Any:
    """Return nested figures with six decimals: an image in 10,000 moves the fourth."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
