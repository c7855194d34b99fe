"""Pixels of test images that have been judged already, for the report's pictures."""

from collections.abc import Callable

from headstart.contracts import UInt8Image
from headstart.data.dataset import Dataset


def mistake_pixels(dataset: Dataset) -> Callable[[int], UInt8Image]:
    """Return a function from a test image's row to its pixels, shape (height, width, 3); labels stay sealed."""
    source = dataset.sealed_test.open().source
    return lambda row: source.image(row)
