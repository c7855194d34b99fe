"""From logits to probabilities, and the one temperature that makes them honest, fitted on validation.

Logits are divided by the temperature before softmax; the order of the classes stays, and accuracy with it. Arrays of
shape (n, classes) are worked through in blocks, so that many images of many classes take little memory.
Source: Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError
from headstart.tasks.measures import check_labels

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Outside of these a fit says more about a tiny validation split than about the classifier."""
_HALVINGS = 30
"""Times that the interval of log T is halved; T is then known to 6e-9."""
_ENTRIES = 2**21
"""Numbers in a block: 16 MB as float64."""
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""What a probability counts as that float32 has rounded to 0, so that its loss is finite."""

Logits = NDArray[np.floating[Any]]


class Judged(NamedTuple):
    """What the outputs come to for each image, shape (n,) each.

    Attributes:
        predicted: Index of the most probable class, by the float32 probabilities that are given out.
        confidence: Its probability.
        loss: Negative log-likelihood of the label, in nats.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]


def softmax(logits: Logits, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities of shape (n, classes), without overflow at any magnitude; rows sum to 1."""
    shifted = _shifted(logits, temperature)
    weights = np.exp(shifted)
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def log_softmax(logits: Logits, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the log-probabilities of logits of shape (n, classes), without overflow at any magnitude."""
    shifted = _shifted(logits, temperature)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def probabilities(logits: Logits, *, temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the probabilities as they are given out: float32, shape (n, classes)."""
    found = np.empty(logits.shape, np.float32)
    for block in _blocks(logits):
        found[block] = softmax(logits[block], temperature=temperature)
    return found


def judge(
    logits: Logits,
    labels: NDArray[np.int64],
    *,
    temperature: float = 1.0,
    given: NDArray[np.float32] | None = None,
) -> Judged:
    """Return prediction, confidence and loss of each image.

    The loss takes logarithms, not probabilities, so that a confident mistake costs what it should instead of infinity.

    Args:
        logits: Shape (n, classes).
        labels: Shape (n,).
        temperature: Number that divides the logits.
        given: Probabilities, shape (n, classes), where something else has made them of the logits.

    Raises:
        DataError: No images, or labels that do not fit.
    """
    check_labels(labels, len(logits), logits.shape[1])
    found = Judged(np.empty(len(labels), np.int64), np.empty(len(labels)), np.empty(len(labels)))
    for block in _blocks(logits):
        if given is None:
            logs = log_softmax(logits[block], temperature=temperature)
            shares = softmax(logits[block], temperature=temperature)
        else:
            shares = given[block].astype(np.float64)
            logs = np.log(np.maximum(shares, _SMALLEST))
        found.predicted[block] = shares.astype(np.float32).argmax(axis=1)
        found.confidence[block] = shares.max(axis=1)
        found.loss[block] = -np.take_along_axis(logs, labels[block, None], axis=1)[:, 0]
    return found


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimizes the negative log-likelihood of ``labels``, within 0.05 and 20.

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
    check_labels(labels, len(logits), logits.shape[1])
    if bool((logits.argmax(axis=1) == labels).all()):
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Too cold where the labels' logits fall behind what is expected of them.
        low, high = (middle, high) if _lag(logits, labels, math.exp(middle)) > 0 else (low, middle)
    found = math.exp((low + high) / 2)
    before, after = (float(judge(logits, labels, temperature=t).loss.mean()) for t in (1.0, found))
    return found if after < before else 1.0


def _lag(logits: Logits, labels: NDArray[np.int64], temperature: float) -> float:
    """Return by how much the expected logit exceeds that of the label, summed: the slope of the loss in 1 / T."""
    total = 0.0
    for block in _blocks(logits):
        exact = logits[block].astype(np.float64)
        expected = (softmax(exact, temperature=temperature) * exact).sum(axis=1)
        total += float((expected - np.take_along_axis(exact, labels[block, None], axis=1)[:, 0]).sum())
    return total


def _shifted(logits: Logits, temperature: float) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = logits.astype(np.float64) / temperature
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted


def _blocks(logits: Logits) -> Iterator[slice]:
    step = max(1, _ENTRIES // max(1, logits.shape[1]))
    for start in range(0, len(logits), step):
        yield slice(start, start + step)
