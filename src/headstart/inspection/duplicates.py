"""Images that a data set holds more than once, and images that look least like the rest of their class.

Copies pixel for pixel are found by their hashes. For near duplicates the features of a pretrained network propose pairs
beside those that ``data.near_copies`` proposes, and the pixels confirm them: features alone would list images of the
same kind of thing. The threshold was chosen by looking at pairs of CIFAR-10's training images, and at no others.

The search for near duplicates follows Barz and Denzler 2020, "Do We Train on Test Data? Purging CIFAR of
Near-Duplicates", where people took the second step.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.near_copies import (
    PIXEL_THRESHOLD,
    Bar,
    pixel_correlation,
    similar_outlines,
    similar_pairs,
)
from headstart.terminal import SILENT

FEATURE_THRESHOLD = 0.6
"""Least cosine of feature directions at which the pixels of two images are compared."""
_COMPONENTS = 256
"""Directions of features that are kept."""


@dataclass(frozen=True)
class Pair:
    """Two images that show the same; ``first`` is less than ``second``.

    Attributes:
        first: Row of one image.
        second: Row of the other.
        feature_similarity: Cosine of the two feature vectors, centered.
        pixel_similarity: Correlation of their luma where they fit best, at most 1.
    """

    first: int
    second: int
    feature_similarity: float
    pixel_similarity: float


def exact_duplicates(hashes: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the rows of images with equal hashes, a tuple for each image that occurs more than once."""
    rows = defaultdict(list)
    for row, image in enumerate(hashes):
        rows[image].append(row)
    return [tuple(same) for same in rows.values() if len(same) > 1]


def near_duplicates(
    directions: NDArray[np.float32],
    squares: NDArray[np.uint8],
    *,
    pixel_threshold: float = PIXEL_THRESHOLD,
    bar: Bar = SILENT.bar,
) -> list[Pair]:
    """Return the pairs of images that show the same photograph, most similar pixels first.

    Args:
        directions: Shape (n, d), from ``feature_directions``.
        squares: Shape (n, 32, 32), from ``luma_squares``.
        pixel_threshold: Least correlation of the pixels.
        bar: Called with a title and a total for each of the two steps.
    """
    with bar("Comparing features", 2 * len(directions)) as advance:
        alike, _ = similar_pairs(directions, threshold=FEATURE_THRESHOLD, advance=advance)
        rows = np.unique(np.concatenate([alike, similar_outlines(squares, advance=advance)]), axis=0)
    with bar("Comparing pixels", len(rows)) as advance:
        correlations = pixel_correlation(squares, rows, advance=advance)
    same = correlations >= pixel_threshold
    return described(directions, rows[same], correlations[same])


def described(
    directions: NDArray[np.float32], rows: NDArray[np.int64], correlations: NDArray[np.floating[Any]]
) -> list[Pair]:
    """Return pairs of rows, shape (m, 2), with the likeness of their features and pixels, most similar pixels first."""
    cosines = (directions[rows[:, 0]] * directions[rows[:, 1]]).sum(axis=1)
    found = [
        Pair(int(first), int(second), float(cosine), float(correlation))
        for (first, second), cosine, correlation in zip(rows, cosines, correlations, strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.pixel_similarity, pair.first, pair.second))


def feature_directions(
    features: Sequence[NDArray[np.float32]], *, components: int = _COMPONENTS
) -> NDArray[np.float32]:
    """Return features as unit vectors around their mean, in the directions in which they vary most.

    Mean and directions are those of the first split alone, so that nothing is fitted to the others.

    Args:
        features: Features of each split, shape (n of the split, features).
        components: Directions that are kept; all where there are no more.

    Returns:
        Shape (n of all splits, components); a vector that equals the mean stays zero.
    """
    centre = features[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((len(centre), len(centre)))
    for block in _rows(features[:1]):
        covariance += (block - centre).T @ (block - centre)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :components].astype(np.float32)
    projected = np.concatenate([(block - centre) @ axes for block in _rows(features)])
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    # What equals the mean stays zero.
    return np.asarray(projected / np.maximum(lengths, 1e-12), dtype=np.float32)


def _rows(parts: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for part in parts:
        for start in range(0, len(part), 4096):
            yield part[start : start + 4096]


def likeness_to_class(directions: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the cosine between each image and the mean of the others of its class; the least are the outliers.

    Args:
        directions: Unit vectors, shape (n, d).
        labels: Shape (n,).

    Returns:
        Shape (n,); 1 for an image that is alone in its class.
    """
    likeness = np.ones(len(labels), dtype=np.float32)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            own = directions[rows]
            others = own.sum(axis=0) - own
            lengths = np.linalg.norm(others, axis=1)
            likeness[rows] = (own * others).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    return likeness
