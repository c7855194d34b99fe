"""Temperature scaling: one number, fitted on validation, that makes probabilities honest.

Logits are divided by the temperature before softmax; the order of the classes stays, and accuracy with it.
Source: Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError
from headstart.tasks.measures import nll

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Outside of these a fit says more about a tiny validation split than about the classifier."""

_HALVINGS = 40
"""Of the interval of 1 / T, which is then known to 2e-11."""

Logits = NDArray[np.floating[Any]]


def log_softmax(logits: Logits, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the log-probabilities of logits of shape (n, classes), without overflow at any magnitude."""
    shifted = logits.astype(np.float64) / temperature
    shifted -= shifted.max(axis=1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def softmax(logits: Logits, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities of shape (n, classes); rows sum to 1."""
    shifted = logits.astype(np.float64) / temperature
    shifted -= shifted.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood of ``labels``, within 0.05 and 20.

    The likelihood is convex in 1 / T, so halving the interval by the sign of its slope finds the one minimum. There is
    none when every image is classified right: the colder, the better, whatever the confidence deserves. Such a split is
    no evidence, and 1 (leave the probabilities alone) is returned.

    Args:
        logits: Shape (n, classes), uncalibrated.
        labels: Shape (n,).

    Raises:
        DataError: No images, logits that are not finite, or labels that do not fit.
    """
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise DataError(f"A temperature can't be fitted: the logits of {bad} of {len(logits)} images are not finite.")
    at_one = nll(log_softmax(logits), labels)  # also checks the labels
    if bool((logits.argmax(axis=1) == labels).all()):
        return 1.0
    exact = logits.astype(np.float64)
    chosen = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    coldest, hottest = TEMPERATURE_BOUNDS
    low, high = 1 / hottest, 1 / coldest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (softmax(exact, temperature=1 / middle) * exact).sum(axis=1)
        low, high = (middle, high) if (expected - chosen).mean() < 0 else (low, middle)
    found = 2 / (low + high)
    return found if nll(log_softmax(logits, temperature=found), labels) < at_one else 1.0
