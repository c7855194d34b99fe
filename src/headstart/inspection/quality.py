"""Images that are hard to use: blurred, dark, bright, of odd size or shape, with little in them.

The measures and their limits are those of cleanvision, on images of at most 64 pixels a side: what a photograph of
12 megapixels shows of these is seen in a small copy as well. ``blurred`` alone differs: cleanvision takes the standard
deviation of the edges, their frame included, and adds the spread of the histogram. ``benchmarks/results/quality.json``
compares the two: on images blurred on purpose the variance alone finds more, and none of the ordinary ones.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.contracts import UInt8Images
from headstart.data.subset import Subset
from headstart.inspection.statistics import in_parts, luminance

SIDE = 64
"""Largest side at which images are measured, in pixels."""
LIMITS = {
    "dark": 0.32,
    "bright": 0.95,
    "blurred": 0.29,
    "low_information": 0.3,
    "odd_aspect": 0.35,
    "odd_size": 3.0,
}
"""An issue is a value below its limit, but above it for ``bright`` and ``odd_size``. The value of ``odd_size`` is the
distance from the middle half of all sizes, in widths of that half."""
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)
"""Weights of the squares of red, green and blue in perceived brightness."""


def find_quality_issues(splits: Sequence[Subset], blocks: Sequence[Iterable[UInt8Images]]) -> dict[str, Any]:
    """Return the images of each issue, worst first, as plain data.

    Args:
        splits: Where the images belong.
        blocks: Images of each split in blocks of one size; they may be reduced.
    """
    measured = [measure(images) | _shapes(split) for split, images in zip(splits, blocks, strict=True)]
    values = {name: np.concatenate([one[name] for one in measured]) for name in measured[0]}
    places = [(split.name, row) for split in splits for row in split.rows.tolist()]
    labels = np.concatenate([split.labels for split in splits])
    names = splits[0].class_names
    issues: dict[str, list[dict[str, Any]]] = {}
    for issue, limit in LIMITS.items():
        high = issue in ("bright", "odd_size")
        value = _size_distance(values["pixels"]) if issue == "odd_size" else values[issue]
        rows = np.flatnonzero(value > limit if high else value < limit)
        rows = rows[np.argsort(-value[rows] if high else value[rows], kind="stable")]
        issues[issue] = [
            {
                "split": places[i][0],
                "row": places[i][1],
                "label": names[int(labels[i])],
                "value": round(float(value[i]), 4),
            }
            for i in rows.tolist()
        ]
    images = {(image["split"], image["row"]) for found in issues.values() for image in found}
    return {"images": len(images), "limits": LIMITS, "issues": issues}


def _shapes(split: Subset) -> dict[str, NDArray[np.float64]]:
    """Return the shorter side by the longer, and the square root of the number of pixels, of every image."""
    sizes = split.source.sizes[split.rows].astype(np.float64)
    return {"odd_aspect": sizes.min(axis=1) / sizes.max(axis=1), "pixels": np.sqrt(sizes.prod(axis=1))}


def measure(blocks: Iterable[UInt8Images]) -> dict[str, NDArray[np.float64]]:
    """Return the measures of every image, each of shape (n,).

    ``dark`` is the 99th percentile of brightness and ``bright`` the 5th, in [0, 1]; ``blurred`` grows with the variance
    of the edges and ``low_information`` is the entropy of the values in bits / 10, both up to 1.

    Args:
        blocks: All images in order, in blocks of shape (k, height, width, 3).
    """
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for block in in_parts(blocks):
        n, small = len(block), _reduced(block)
        squares = np.square(small.astype(np.float32)).reshape(n, -1, 3) @ _BRIGHTNESS
        dark, bright = np.percentile(np.sqrt(squares) / 255, (99, 5), axis=1)
        found = {
            "dark": dark,
            "bright": bright,
            "blurred": 1 - np.exp(-0.01 * _edges(luminance(small))),
            "low_information": np.minimum(0.1 * _entropy(small.reshape(n, -1, 3)), 1.0),
        }
        for name, values in found.items():
            parts.setdefault(name, []).append(np.asarray(values, np.float64))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _reduced(images: UInt8Images) -> UInt8Images:
    height, width = images.shape[1:3]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in images])


def _edges(luma: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the variance of the edges of each image: what a pixel differs from its eight neighbors, 0 to 255."""
    if min(luma.shape[1:]) < 3:
        return np.zeros(len(luma))
    height, width = luma.shape[1:]
    around = sum(luma[:, y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3))
    edges = np.clip(9 * luma[:, 1:-1, 1:-1] - around, 0, 255).reshape(len(luma), -1)
    return np.asarray(edges.var(axis=1), np.float64)


def _entropy(pixels: UInt8Images) -> NDArray[np.float64]:
    """Return the entropy of the values of all channels of each image, in bits: (n, pixels, 3) to (n,)."""
    n = len(pixels)
    bins = pixels.astype(np.int64) + 256 * np.arange(3) + 768 * np.arange(n)[:, None, None]
    shares = np.bincount(bins.ravel(), minlength=768 * n).reshape(n, 768) / (pixels.shape[1] * 3)
    entropy: NDArray[np.float64] = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
    return entropy


def _size_distance(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each size lies outside the middle half of all, in widths of that half."""
    low, high = np.quantile(sizes, (0.25, 0.75))
    outside = np.maximum(np.maximum(low - sizes, sizes - high), 0)
    # Equal sizes have no width; an image must differ by half to be odd among them.
    return np.asarray(outside / max(high - low, 0.05 * high, 1e-9))
