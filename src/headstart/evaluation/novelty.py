"""A novelty score for a trained classifier: fitted on training features, with its threshold from validation.

It adds three parts, each in units of its spread on validation: the residual of the features beyond the principal axes
of the training images, which finds what is unlike all of them; the relative Mahalanobis distance to the nearest class,
which finds what lies between the classes; and the energy of the logits. They were chosen on training images of classes
that a classifier was trained without (``benchmarks/measure_novelty.py``); on its own classes no classifier can tell.

Sources: Wang et al., 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching" (residual); Ren et al., 2021, "A
Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection"; Liu et al., 2020, "Energy-based
Out-of-distribution Detection".
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.bundle.novelty import Novelty, parts_in, score_in
from headstart.data.subset import Subset
from headstart.evaluation.outputs import finite_outputs
from headstart.inference.artifact import Outputs
from headstart.inference.predictor import Predictor, Progress, within
from headstart.tasks.measures import wilson_interval

REFERENCE_IMAGES = 2000
"""Training images, at most, whose features the score is fitted on."""
FALSE_ALARMS = 0.05
"""Share of the validation images that the threshold calls unfamiliar."""
_MOST_AXES = 256
_SHRINKAGE = 0.3
"""Share of the covariance that is replaced by as much in every direction; more features than images have no inverse."""


def reference_images(train: Subset) -> Subset:
    """Return the images of a split that the score is fitted on: as many of each class, whatever their order.

    Which ones is decided by their hashes. Classes with few images give all of theirs.
    """
    rank = np.empty(len(train), np.int64)
    for label in np.unique(train.labels):
        members = np.flatnonzero(train.labels == label)
        rank[members[np.argsort([train.identities[member] for member in members.tolist()])]] = np.arange(len(members))
    chosen = np.sort(np.lexsort((train.labels, rank))[:REFERENCE_IMAGES])
    return Subset(train.source, train.rows[chosen], train.name)


def learn_novelty(
    predictor: Predictor, reference: Subset, val: Subset, in_all: int, progress: Progress | None
) -> tuple[Novelty, NDArray[np.float32]]:
    """Fit a score, let the predictor use it from now on, and return it with the logits for validation.

    The validation split sets the threshold; ``progress`` is told of ``in_all`` images.
    """
    first = finite_outputs(predictor, reference, within(progress, done_before=0, in_all=in_all), features=True)
    done = len(reference)
    second = finite_outputs(predictor, val, within(progress, done_before=done, in_all=in_all), features=True)
    assert first.features is not None
    novelty = fit_novelty(first.features, reference.labels, second)
    predictor.artifact.set_novelty(novelty)
    return novelty, second.logits


def fit_novelty(features: NDArray[np.float32], labels: NDArray[np.int64], val: Outputs) -> Novelty:
    """Return the score with its threshold.

    Args:
        features: What the head sees of the reference images, shape (n, d).
        labels: Their classes, shape (n,); every class occurs.
        val: The outputs for validation images, with features.
    """
    assert val.features is not None
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    arrays = {**_principal_axes(directions), **_discriminants(directions.astype(np.float64), labels)}
    parts = parts_in(np, arrays, val.features, val.logits)
    arrays["scale"] = np.stack([parts.mean(0), parts.std(0).clip(min=1e-6)], 1)
    scores = score_in(np, arrays, val.features, val.logits)
    threshold = round(float(np.quantile(scores, 1 - FALSE_ALARMS, method="higher")), 6)
    return Novelty(arrays, threshold, round(float((scores > threshold).mean()), 6))


def measure_novelty(novelty: Novelty, reference_images: int, test: Outputs) -> dict[str, Any]:
    """Return the block ``novelty`` of ``metrics.json``."""
    assert test.novelty is not None
    flagged, n = int((test.novelty > novelty.threshold).sum()), len(test.novelty)
    return {
        "threshold": novelty.threshold,
        "reference_images": reference_images,
        "val_false_alarms": novelty.false_alarms,
        "test_false_alarms": round(flagged / n, 6),
        "test_false_alarms_ci95": [round(end, 6) for end in wilson_interval(flagged, n)],
    }


def _principal_axes(directions: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the mean of directions, shape (n, d), and the axes along which they differ most."""
    images, features = directions.shape
    # As many axes as images, or as features, would leave no residual.
    count = max(1, min(_MOST_AXES, images // 4, features // 2))
    centre = directions.mean(axis=0, keepdims=True)
    centred = directions - centre
    axes = np.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return {"centre": centre, "axes": np.ascontiguousarray(axes)}


def _discriminants(directions: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of the relative Mahalanobis distance.

    The distance to a class, with the covariance inside classes, minus the distance to all images, with their
    covariance: where class means do not differ the two cancel out, so that the linear discriminants hold all of it.
    """
    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([directions[labels == label].mean(axis=0) for label in classes])
    middle = directions.mean(axis=0)
    within = directions - means[np.searchsorted(classes, labels)]
    covariance = within.T @ within / len(within)
    variance = max(float(np.trace(covariance)) / len(covariance), 1e-6)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variance * np.eye(len(covariance))
    factor = np.linalg.cholesky(covariance)
    between = np.sqrt(counts / len(labels))[:, None] * (means - middle)
    _, spread, axes = np.linalg.svd(np.linalg.solve(factor, between.T).T, full_matrices=False)
    kept = axes[: max(1, len(classes) - 1)]
    projection = np.linalg.solve(factor.T, kept.T)
    found = {
        "projection": projection,
        "middle": (middle @ projection)[None],
        "means": (means - middle) @ projection,
        "weights": 1 / (1 + spread[None, : len(kept)] ** 2),
    }
    return {name: array.astype(np.float32) for name, array in found.items()}
