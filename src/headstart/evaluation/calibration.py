"""Temperature scaling: one number, fitted on validation, that makes probabilities honest.

Logits are divided by the temperature before softmax; the order of the classes stays, and accuracy with it.
Source: Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

import math
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from headstart.errors import DataError
from headstart.evaluation.metrics import nll

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Outside of these a fit says more about a tiny validation split than about the classifier."""


def log_softmax(logits: NDArray[np.floating[Any]], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the log-probabilities of logits of shape (n, classes), without overflow at any magnitude."""
    log_probabilities: NDArray[np.float64] = scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return log_probabilities


def softmax(logits: NDArray[np.floating[Any]], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities of shape (n, classes); rows sum to 1."""
    probabilities: NDArray[np.float64] = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return probabilities


def fit_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood of ``labels``, within 0.05 and 20.

    The likelihood has one peak in log T, so a bounded scalar search finds it. It has none when every image is
    classified right: the colder, the better, whatever the confidence deserves. Such a split is no evidence,
    and 1 (leave the probabilities alone) is returned.

    Args:
        logits: Shape (n, classes), uncalibrated.
        labels: Shape (n,).

    Raises:
        DataError: No images, logits that are not finite, or labels that do not fit.
    """
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise DataError(f"A temperature can't be fitted: the logits of {bad} of {len(logits)} images are not finite.")

    def loss(log_temperature: float) -> float:
        return nll(log_softmax(logits, temperature=math.exp(log_temperature)), labels)

    at_one = loss(0.0)  # also checks the labels
    if bool((logits.argmax(axis=1) == labels).all()):
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return math.exp(float(found.x)) if float(found.fun) < at_one else 1.0
