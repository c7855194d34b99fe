"""Pixels for the pages: of test images that are classified already."""

from collections.abc import Callable

from headstart.contracts import UInt8Image
from headstart.data.dataset import Dataset


def mistake_pixels(dataset: Dataset, *, at_least: int | None = None) -> Callable[[int], UInt8Image]:
    """Return a function from a test image's row to its pixels, shape (height, width, 3); labels stay sealed.

    Args:
        dataset: The data set that the run was trained on.
        at_least: Pixels that the shorter side must keep where large images may be decoded reduced.
    """
    source = dataset.sealed_test.open().source
    return lambda row: source.image(row, at_least=at_least)
