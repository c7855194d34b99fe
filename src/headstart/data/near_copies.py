"""Near copies: images that show the same photograph with another size, crop, brightness, compression or side.

Two steps find them without any network. Outlines, what is left of an image at 10 by 10 pixels without its slow changes,
propose pairs, also of the mirrored images; and the pixels confirm them, aligned at several shifts and sizes. Both
thresholds were chosen by looking at CIFAR-10's training images and at photographs of TrashNet.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headstart.contracts import UInt8Image, UInt8Images
from headstart.terminal import SILENT

PIXEL_THRESHOLD = 0.8
"""Least correlation of the pixels of near copies."""
OUTLINE_THRESHOLD = 0.5
"""Least cosine of outlines at which the pixels of two images are compared."""
CODE_VERSION = 2
"""Version of the arithmetic in this module; raised by every change that gives other pairs."""
NEIGHBORS = 4
"""Pairs are compared where one image is among so many nearest neighbors of the other."""
SIDE = 32
"""Side of the squares in which pixels are compared."""
_OUTLINE = 10
"""Side of an outline: coarse enough for a crop by 5% to move it by less than half a pixel."""
_MIDDLES = (24, 26, 28, 30)
"""Sides of the central part of one square that is shrunk to the first of them and looked for in the other: one image
may show things up to a quarter larger than the other."""
_COARSE = (12, 14)
"""The same at half the resolution, where most pairs are told apart at an eighth of the cost."""
_HOPEFUL = 0.5
"""Least correlation at half the resolution at which a pair is compared at the full one."""
_BLUR = 9
"""Side of the neighborhood that a pixel is compared with."""
_PLAIN = 4.0
"""Standard deviation, in levels of gray, that counts as much as one of the image's own: less is mostly noise."""
_ENTRIES = 2**24
"""Similarities that are held in memory at a time: 64 MB."""
_PAIRS = 64
"""Pairs whose pixels are compared at a time."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""From a title and a total to a context that yields what advances the bar."""


def near_copies(
    squares: NDArray[np.uint8], *, pixel_threshold: float = PIXEL_THRESHOLD, bar: Bar = SILENT.bar
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the pairs of images that show the same.

    Args:
        squares: Shape (n, 32, 32), from ``luma_squares``.
        pixel_threshold: Least correlation of the pixels.
        bar: Called with a title and a total for each of the two steps.

    Returns:
        Rows, shape (m, 2), the smaller first and in ascending order, and correlations, shape (m,).
    """
    with bar("Comparing outlines", len(squares)) as advance:
        pairs = similar_outlines(squares, advance=advance)
    with bar("Comparing pixels", len(pairs)) as advance:
        correlations = pixel_correlation(squares, pairs, advance=advance)
    same = correlations >= pixel_threshold
    order = np.lexsort(pairs[same].T[::-1])
    return pairs[same][order], correlations[same][order]


def similar_outlines(
    squares: NDArray[np.uint8], *, advance: Callable[[int], None] = lambda _: None
) -> NDArray[np.int64]:
    """Return the pairs of images whose outlines are alike, as they are or mirrored: shape (m, 2).

    Args:
        squares: Shape (n, 32, 32), from ``luma_squares``.
        advance: Called with the number of images that are done.
    """
    if not len(squares):
        return np.empty((0, 2), dtype=np.int64)
    outlines = torch.cat([_outlines(torch.from_numpy(squares[i : i + 4096])) for i in range(0, len(squares), 4096)])
    pairs, _ = similar_pairs(
        outlines.flatten(1).numpy(),
        mirrored=outlines.flip(2).flatten(1).numpy(),
        threshold=OUTLINE_THRESHOLD,
        advance=advance,
    )
    return pairs


def _outlines(squares: Tensor) -> Tensor:
    """Return unit vectors in the form of images: shape (n, 10, 10)."""
    coarse = F.adaptive_avg_pool2d((squares.float() - _mean_around(squares.float()))[:, None], _OUTLINE).flatten(1)
    # Less than one level of gray in all shows nothing.
    unit = F.normalize(coarse - coarse.mean(dim=1, keepdim=True), dim=1, eps=1.0)
    return unit.reshape(-1, _OUTLINE, _OUTLINE)


def similar_pairs(
    directions: NDArray[np.float32],
    *,
    threshold: float,
    mirrored: NDArray[np.float32] | None = None,
    neighbors: int = NEIGHBORS,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the pairs of rows that point the same way: each with its nearest neighbors.

    Args:
        directions: Unit vectors, shape (n, d).
        threshold: Least cosine.
        mirrored: Unit vectors of the mirrored images, shape (n, d); a pair is as near as its nearer sides.
        neighbors: A pair is kept where one row is among so many nearest ones of the other; otherwise n images of
            the same thing would make n * n / 2 pairs.
        advance: Called with the number of rows that are done.

    Returns:
        Rows, shape (m, 2), the smaller first, and cosines, shape (m,).
    """
    # On torch, because its number of threads is what --threads sets.
    vectors = torch.from_numpy(np.ascontiguousarray(directions))
    flipped = None if mirrored is None else torch.from_numpy(np.ascontiguousarray(mirrored))
    rows, cosines = [], []
    step = max(1, min(len(vectors), _ENTRIES // max(1, len(vectors))))
    # Used again for every block: what is kept of a block would lie in the memory of its similarities, were that given
    # back, and the next block would need new memory, 64 MB at a time.
    similarities = torch.empty(step * len(vectors))
    others = torch.empty(0 if flipped is None else step * len(vectors))
    # The second row's own neighbors are known only at the end, so that a few more are kept until then.
    most = 8 * neighbors
    for start in range(0, len(vectors), step):
        block, later = vectors[start : start + step], vectors[start:]
        similar = similarities[: len(block) * len(later)].view(len(block), len(later))
        torch.mm(block, later.T, out=similar)
        if flipped is not None:
            also = others[: len(block) * len(later)].view(len(block), len(later))
            torch.maximum(similar, torch.mm(block, flipped[start:].T, out=also), out=similar)
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
    squares = [luma_square(image) for block in blocks for image in block]
    return np.stack(squares) if squares else np.empty((0, SIDE, SIDE), np.uint8)


def luma_square(image: UInt8Image) -> NDArray[np.uint8]:
    """Return the brightness of an image, shape (height, width, 3), as a square of 32 by 32 pixels."""
    luma = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    if luma.size != (SIDE, SIDE):
        kernel = Image.Resampling.BOX if min(luma.size) >= SIDE else Image.Resampling.BILINEAR
        luma = luma.resize((SIDE, SIDE), kernel)
    return np.asarray(luma)


@torch.inference_mode()
def pixel_correlation(
    squares: NDArray[np.uint8], pairs: NDArray[np.int64], *, advance: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """Return how well the pixels of each pair agree where they fit best.

    The central part of one image is looked for in the other, at every shift of up to 4 pixels, at several sizes and
    mirrored, and the other way round. What counts is the correlation of what a pixel adds to its neighborhood, measured
    by the neighborhood's contrast: plain luma would find any two images of sea and sky alike.

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
        one, other = (_contrast(torch.from_numpy(squares[rows[:, side]]).float()) for side in (0, 1))
        found = _better_way(F.avg_pool2d(one, 2), F.avg_pool2d(other, 2), _COARSE)
        hopeful = found >= _HOPEFUL
        if hopeful.any():
            found[hopeful] = _better_way(one[hopeful], other[hopeful], _MIDDLES)
        best[start : start + _PAIRS] = found.numpy()
        advance(len(rows))
    return best


def _mean_around(images: Tensor) -> Tensor:
    """Return the mean around each pixel of images of shape (k, 32, 32)."""
    around, edge = images[:, None], _BLUR // 2
    # First along columns, then along rows: 18 additions a pixel instead of 81.
    for side, padding in (((_BLUR, 1), (edge, 0)), ((1, _BLUR), (0, edge))):
        around = F.avg_pool2d(around, side, stride=1, padding=padding, count_include_pad=False)
    return around[:, 0]


def _contrast(images: Tensor) -> Tensor:
    """Return how far each pixel of images, shape (k, 32, 32), is from those around it, in their standard deviations.

    So all parts of an image count alike. Otherwise any two dark things on plain ground would agree by their outlines.
    """
    around = _mean_around(images)
    return (images - around) / (_mean_around(images**2) - around**2 + _PLAIN**2).clamp_(min=1e-3).sqrt_()


def _better_way(one: Tensor, other: Tensor, middles: tuple[int, ...]) -> Tensor:
    return torch.maximum(_best_fit(one, other, middles), _best_fit(other, one, middles))


def _best_fit(images: Tensor, others: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Return the greatest correlation of the middle of each image with a window of the other: shape (k,).

    Args:
        images: Shape (k, s, s).
        others: Shape (k, s, s).
        sides: Sides of the middle that is shrunk to the least of them, which is that of the window.
    """
    patch = sides[0]
    middles = torch.stack([_middle(images, side, patch) for side in sides], dim=1)
    middles = torch.cat([middles, middles.flip(3)], dim=1).flatten(2)
    # What is that small shows nothing.
    middles = F.normalize(middles - middles.mean(dim=2, keepdim=True), dim=2, eps=1.0)
    # The middles have mean 0, so that the mean of a window makes no difference here.
    products = middles @ F.unfold(others[:, None], patch)
    variances = F.avg_pool2d(others**2, patch, stride=1) - F.avg_pool2d(others, patch, stride=1) ** 2
    lengths = (patch * variances.clamp_(min=0).sqrt_()).clamp_(min=1.0)
    return (products / lengths.flatten(1)[:, None]).flatten(1).amax(dim=1)


def _middle(images: Tensor, side: int, patch: int) -> Tensor:
    """Return the central square of that side, shrunk to the patch: (k, patch, patch)."""
    margin = (images.shape[-1] - side) // 2
    middle = images[:, None, margin : margin + side, margin : margin + side]
    if side > patch:
        middle = F.interpolate(middle, (patch, patch), mode="bilinear", antialias=True, align_corners=False)
    return middle[:, 0]
