"""Images that a data set holds more than once, and images that look least like the rest of their class.

Copies pixel for pixel are found by their hashes. Near duplicates, the same photograph with another crop, size, color
or side, are found in two steps: the features of a pretrained network propose pairs, and the pixels confirm them.
Features alone would list images of the same kind of thing; pixels alone would have to be compared at every shift and
scale for every pair. Both thresholds were chosen by looking at pairs of CIFAR-10's training images, and at no others.

The search for near duplicates follows Barz and Denzler 2020, "Do We Train on Test Data? Purging CIFAR of
Near-Duplicates", where people took the second step.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headstart.contracts import UInt8Images
from headstart.inspection.statistics import in_parts, luminance

FEATURE_THRESHOLD = 0.6
"""Least cosine of feature directions at which the pixels of two images are compared."""
PIXEL_THRESHOLD = 0.75
"""Least correlation of the pixels of near duplicates."""
NEIGHBORS = 4
"""Pairs are compared where one image is among so many nearest neighbors of the other."""
SIDE = 32
"""Side of the squares in which pixels are compared."""
_PATCH = 24
"""Side of the central part of one square that is looked for in the other."""
_MIDDLES = (24, 26, 28, 30)
"""Sides of the part that is shrunk to the patch: one image may show things up to a quarter larger than the other."""
_BLUR = 9
"""Side of the neighborhood whose mean is taken away from a pixel."""
_COMPONENTS = 256
"""Directions of features that are kept."""
_ENTRIES = 2**24
"""Similarities that are held in memory at a time: 64 MB."""
_PAIRS = 64
"""Pairs whose pixels are compared at a time."""


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


Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""From a title and a total to a context that yields what advances the bar."""


@contextmanager
def _no_bar(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


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
    feature_threshold: float = FEATURE_THRESHOLD,
    pixel_threshold: float = PIXEL_THRESHOLD,
    bar: Bar = _no_bar,
) -> list[Pair]:
    """Return the pairs of images that show the same photograph, most similar pixels first.

    Args:
        directions: Shape (n, d), from ``feature_directions``.
        squares: Shape (n, 32, 32), from ``luma_squares``.
        feature_threshold: Least cosine at which the pixels are compared.
        pixel_threshold: Least correlation of the pixels.
        bar: Called with a title and a total for each of the two steps.
    """
    with bar("Comparing features", len(directions)) as advance:
        rows, cosines = similar_pairs(directions, threshold=feature_threshold, advance=advance)
    with bar("Comparing pixels", len(rows)) as advance:
        correlations = pixel_correlation(squares, rows, advance=advance)
    found = [
        Pair(int(first), int(second), float(cosine), float(correlation))
        for (first, second), cosine, correlation in zip(rows, cosines, correlations, strict=True)
        if correlation >= pixel_threshold
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


def similar_pairs(
    directions: NDArray[np.float32],
    *,
    threshold: float,
    neighbors: int = NEIGHBORS,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the pairs of rows that point the same way: each with its nearest neighbors.

    Args:
        directions: Unit vectors, shape (n, d).
        threshold: Least cosine.
        neighbors: A pair is kept where one row is among so many nearest ones of the other; otherwise n images of
            the same thing would make n * n / 2 pairs.
        advance: Called with the number of rows that are done.

    Returns:
        Rows, shape (m, 2), the smaller first, and cosines, shape (m,).
    """
    # On torch, because its number of threads is what --threads sets.
    vectors = torch.from_numpy(np.ascontiguousarray(directions))
    rows, cosines = [], []
    step = max(1, min(len(vectors), _ENTRIES // max(1, len(vectors))))
    # Used again for every block: what is kept of a block would lie in the memory of its similarities, were that given
    # back, and the next block would need new memory, 64 MB at a time.
    similarities = torch.empty(step * len(vectors))
    # The second row's own neighbors are known only at the end, so that a few more are kept until then.
    most = 8 * neighbors
    for start in range(0, len(vectors), step):
        block, later = vectors[start : start + step], vectors[start:]
        similar = similarities[: len(block) * len(later)].view(len(block), len(later))
        torch.mm(block, later.T, out=similar)
        # Only pairs with later rows: each once, and none with itself.
        first, second, values = _nearest_later(similar.triu_(1), threshold, most)
        rows.append(np.stack([first, second], axis=1) + start)
        cosines.append(values)
        advance(len(block))
    if not rows:
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
    pairs, similarity = np.concatenate(rows), np.concatenate(cosines)
    ranks = _ranks(pairs.T.ravel(), np.tile(similarity, 2)).reshape(2, -1)
    near = ranks.min(axis=0) < neighbors
    return pairs[near], similarity[near]


def _nearest_later(
    similar: Tensor, threshold: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return rows, columns and values of the entries that reach the threshold, of each row the ``most`` largest.

    Only a row with more than that is sorted. Of images that are all alike, nearly every entry reaches the threshold,
    and a list of all of them would take gigabytes.
    """
    above = similar >= threshold
    crowded = above.sum(dim=1) > most
    found = [part.numpy() for part in (above & ~crowded[:, None]).nonzero(as_tuple=True)]
    values = [similar[found[0], found[1]].numpy()]
    firsts, seconds = [found[0]], [found[1]]
    for row in crowded.nonzero()[:, 0].tolist():
        best = similar[row].topk(most)
        firsts.append(np.full(most, row))
        seconds.append(best.indices.numpy())
        values.append(best.values.numpy())
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(values)


def _ranks(groups: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the place of each value among those of its group, 0 for the greatest."""
    order = np.lexsort((-values, groups))
    ordered = groups[order]
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks


def luma_squares(blocks: Iterable[UInt8Images]) -> NDArray[np.uint8]:
    """Return the brightness of every image as a square of 32 by 32 pixels: shape (n, 32, 32).

    Args:
        blocks: All images in order, in blocks of shape (k, height, width, 3).
    """
    parts = in_parts(blocks)
    return np.concatenate([_squares(np.rint(luminance(block)).astype(np.uint8)) for block in parts])


def _squares(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if luma.shape[1:] == (SIDE, SIDE):
        return luma
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BOX)) for one in luma])


@torch.inference_mode()
def pixel_correlation(
    squares: NDArray[np.uint8], pairs: NDArray[np.int64], *, advance: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """Return how well the pixels of each pair agree where they fit best.

    The central part of one image is looked for in the other, at every shift of up to 4 pixels, at several sizes and
    mirrored, and the other way round. What counts is the correlation, which brightness and contrast do not change, of
    what a pixel adds to its neighborhood: plain luma would find any two images of sea and sky alike.

    Args:
        squares: Shape (n, 32, 32).
        pairs: Rows, shape (m, 2).
        advance: Called with the number of pairs that are done.

    Returns:
        Shape (m,), each in [-1, 1].
    """
    best = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _PAIRS):
        rows = pairs[start : start + _PAIRS]
        one, other = (_details(torch.from_numpy(squares[rows[:, side]]).float()) for side in (0, 1))
        best[start : start + _PAIRS] = torch.maximum(_best_fit(one, other), _best_fit(other, one)).numpy()
        advance(len(rows))
    return best


def _details(images: Tensor) -> Tensor:
    """Return images, shape (k, 32, 32), without what changes slowly."""
    slow = F.avg_pool2d(images[:, None], _BLUR, stride=1, padding=_BLUR // 2, count_include_pad=False)
    return images - slow[:, 0]


def _best_fit(images: Tensor, others: Tensor) -> Tensor:
    """Return the greatest correlation of the middle of each image with a window of the other: shape (k,)."""
    middles = torch.stack([_middle(images, side) for side in _MIDDLES], dim=1)
    middles = torch.cat([middles, middles.flip(3)], dim=1).flatten(2)
    # Less than one level of gray in all shows nothing.
    middles = F.normalize(middles - middles.mean(dim=2, keepdim=True), dim=2, eps=1.0)
    # The middles have mean 0, so that the mean of a window makes no difference here.
    products = middles @ F.unfold(others[:, None], _PATCH)
    variances = F.avg_pool2d(others**2, _PATCH, stride=1) - F.avg_pool2d(others, _PATCH, stride=1) ** 2
    lengths = (_PATCH * variances.clamp_(min=0).sqrt_()).clamp_(min=1.0)
    return (products / lengths.flatten(1)[:, None]).flatten(1).amax(dim=1)


def _middle(images: Tensor, side: int) -> Tensor:
    """Return the central square of that side, shrunk to the patch: (k, 24, 24)."""
    margin = (SIDE - side) // 2
    middle = images[:, None, margin : SIDE - margin, margin : SIDE - margin]
    if side > _PATCH:
        middle = F.interpolate(middle, (_PATCH, _PATCH), mode="bilinear", antialias=True, align_corners=False)
    return middle[:, 0]


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
