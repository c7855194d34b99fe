"""What a data set's pixels and labels look like, counted in one pass and exactly.

Everything that concerns single values is derived from histograms of the 256 values that a byte can take, so that no
rounding depends on the number of images, and no floating-point copy of all of them is made. Images come in blocks of
equal size: ``Subset.blocks`` yields an array a few thousand images at a time, and images of different sizes one by
one. A block is worked through in parts of a few million values, and results are written into arrays that are there
beforehand: a small array that outlives each part would otherwise keep the memory of the part from being used again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, UInt8Images

CHANNELS = ("red", "green", "blue")
NEAR = 10
"""Values up to this are near-black, values from 255 minus this near-white."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601), as Pillow uses them for its mode ``L``."""
_LEVELS = np.arange(256)
_BINS = 64
"""Bins of the histograms of brightness and contrast."""
_VALUES = 2**22
"""Values of pixels that are looked at together: 16 MB as float32."""
_MEAN_VALUES = 2**23
"""Values that all mean images together may have: 64 MB while they are summed up."""


@dataclass(frozen=True)
class Statistics:
    """What one pass over labeled images has counted.

    Attributes:
        sizes: Number of images of each (height, width, channels), most frequent first.
        labels: Shape (n,), as they were given.
        class_names: In index order.
        histograms: Shape (3, 256): how often each value occurs in red, green and blue.
        brightness: Shape (n,): mean luma of each image, 0 to 255.
        contrast: Shape (n,): standard deviation of each image's luma, 0 to 127.5.
        constant: Rows of the images whose pixels are all the same.
        mean_images: Shape (k, height, width, 3), 0 to 255, NaN for a class without images: of the first k classes, as
            many as fit into 64 MB; None where sizes differ.
    """

    sizes: dict[tuple[int, ...], int]
    labels: NDArray[np.int64]
    class_names: ClassNames
    histograms: NDArray[np.int64]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    constant: tuple[int, ...]
    mean_images: NDArray[np.float64] | None

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of images of each class, by name in index order."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; values of pixels are rounded to 2 decimals, scaled ones to 4."""
        overall = self.histograms.sum(axis=0)
        return {
            "n": len(self.labels),
            "shape": list(next(iter(self.sizes))) if len(self.sizes) == 1 else None,
            "sizes": {"x".join(map(str, size)): count for size, count in self.sizes.items()},
            "dtype": "uint8",
            "labels": {
                "shape": list(self.labels.shape),
                "dtype": str(self.labels.dtype),
                "min": int(self.labels.min()),
                "max": int(self.labels.max()),
            },
            "class_counts": self.class_counts,
            **_moments(overall, _LEVELS, digits=2),
            "near_black_share": round(float(overall[: NEAR + 1].sum() / overall.sum()), 6),
            "near_white_share": round(float(overall[255 - NEAR :].sum() / overall.sum()), 6),
            "channels": {
                name: _moments(histogram, _LEVELS, digits=2)
                for name, histogram in zip(CHANNELS, self.histograms, strict=True)
            },
            "brightness": _spread(self.brightness),
            "contrast": _spread(self.contrast),
            "constant": {"n": len(self.constant), "rows": list(self.constant)},
            "scaled": self._scaled(overall),
            "histograms": {
                "overall": overall.tolist(),
                **dict(zip(CHANNELS, self.histograms.tolist(), strict=True)),
            },
        }

    def _scaled(self, overall: NDArray[np.int64]) -> dict[str, Any]:
        """Return the statistics after division by 255; a pixel is one of 256 values, so these are all there is."""
        values = scale(_LEVELS.astype(np.uint8))
        return {
            "divisor": 255,
            "dtype": str(values.dtype),
            **_moments(overall, values.astype(np.float64), digits=4),
            "nan": int(overall[np.isnan(values)].sum()),
            "inf": int(overall[np.isinf(values)].sum()),
            "channels": {
                name: _moments(histogram, values.astype(np.float64), digits=4)
                for name, histogram in zip(CHANNELS, self.histograms, strict=True)
            },
        }


def describe(
    blocks: Iterable[UInt8Images],
    labels: NDArray[np.int64],
    class_names: ClassNames,
    *,
    sizes: NDArray[np.int64] | None = None,
) -> Statistics:
    """Count what labeled images are made of.

    Args:
        blocks: All images in order, in blocks of shape (k, height, width, 3); at least one image.
        labels: Shape (n,).
        class_names: In index order.
        sizes: Width and height of each image, shape (n, 2), where the blocks hold reduced images; as in the blocks
            when None.
    """
    shapes: Counter[tuple[int, ...]] = Counter()
    histograms = np.zeros((3, 256), dtype=np.int64)
    brightness, contrast = np.empty(len(labels), np.float32), np.empty(len(labels), np.float32)
    constant = np.zeros(len(labels), dtype=np.bool_)
    sums: NDArray[np.int64] | None = None
    done = 0
    for block in in_parts(blocks):
        size = block.shape[1:]
        shapes[size] += len(block)
        place = slice(done, done + len(block))
        histograms += _histograms(block)
        luma = luminance(block).reshape(len(block), -1)
        brightness[place], contrast[place] = luma.mean(axis=1), luma.std(axis=1)
        flat = block.reshape(len(block), -1, 3)
        constant[place] = (flat == flat[:, :1]).all(axis=(1, 2))
        if sums is None:
            shown = min(len(class_names), _MEAN_VALUES // int(np.prod(size)))
            sums = np.zeros((shown, *size), dtype=np.int64)
        if len(shapes) == 1:
            _add_by_class(sums, block, labels[place])
        done += len(block)
    assert sums is not None, "there must be images"
    assert done == len(labels), (done, len(labels))
    found = shapes if sizes is None else Counter((height, width, 3) for width, height in sizes.tolist())
    return Statistics(
        sizes=dict(found.most_common()),
        labels=labels,
        class_names=class_names,
        histograms=histograms,
        brightness=brightness,
        contrast=contrast,
        constant=tuple(np.flatnonzero(constant).tolist()),
        mean_images=_means(sums, labels) if len(shapes) == 1 else None,
    )


def in_parts(blocks: Iterable[UInt8Images]) -> Iterator[UInt8Images]:
    """Yield the same images in blocks of no more than a few million values; a larger image comes alone."""
    for block in blocks:
        step = max(1, _VALUES // int(np.prod(block.shape[1:])))
        for start in range(0, len(block), step):
            yield block[start : start + step]


def scale(images: UInt8Images) -> NDArray[np.float32]:
    """Return pixels in [0, 1], as every network here gets them before its own normalization."""
    return np.asarray(images.astype(np.float32) / 255, dtype=np.float32)


def luminance(images: UInt8Images) -> NDArray[np.float32]:
    """Return the brightness of each pixel, 0 to 255: (..., 3) to (...)."""
    luma: NDArray[np.float32] = images.astype(np.float32) @ _LUMA
    return luma


def _histograms(block: UInt8Images) -> NDArray[np.int64]:
    planes = np.moveaxis(block, -1, 0)
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in planes])


def _add_by_class(sums: NDArray[np.int64], block: UInt8Images, labels: NDArray[np.int64]) -> None:
    for label in np.unique(labels[labels < len(sums)]):
        sums[label] += block[labels == label].sum(axis=0, dtype=np.int64)


def _means(sums: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(labels, minlength=len(sums))[: len(sums)].reshape(-1, 1, 1, 1)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums / counts
    return means


def _moments(histogram: NDArray[np.int64], values: NDArray[Any], *, digits: int) -> dict[str, float]:
    """Return mean, standard deviation, least and greatest of values that occur so often."""
    total = histogram.sum()
    mean = float((histogram * values).sum() / total)
    variance = float((histogram * (values - mean) ** 2).sum() / total)
    present = values[histogram > 0]
    return {
        "mean": round(mean, digits),
        "std": round(variance**0.5, digits),
        "min": present.min().item(),
        "max": present.max().item(),
    }


def _spread(values: NDArray[np.float32]) -> dict[str, Any]:
    """Return how the values of single images are spread; the histogram covers 0 to 256 evenly."""
    quantiles = dict(zip(("p5", "median", "p95"), np.quantile(values, (0.05, 0.5, 0.95)), strict=True))
    spread = {"mean": values.mean(dtype=np.float64), "min": values.min(), **quantiles, "max": values.max()}
    histogram, _ = np.histogram(values, bins=_BINS, range=(0, 256))
    return {name: round(float(value), 2) for name, value in spread.items()} | {"histogram": histogram.tolist()}
