"""Images that lie in one array, in memory or memory-mapped."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, Fit, UInt8Image, UInt8Images
from headstart.data.arrays import image_digests
from headstart.data.kept_array import KeptArray

_INDEX_FORMAT = 1
_INDEX_BYTES = 10**9
"""Hashes of 30 million images."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An ``ImageSource`` over one array.

    Attributes:
        array: Shape (n, height, width, 3), uint8 RGB; may be memory-mapped.
        targets: Shape (n,), int64 indices into ``classes``.
        classes: In index order.
        index: File that keeps the images' hashes from one run to the next; None to keep them in memory only.
        array_sha256: SHA-256 of the data set that the array has been verified to belong to; the index holds for no
            other.
    """

    array: UInt8Images = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    classes: ClassNames
    index: Path | None = None
    array_sha256: str = ""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each image in pixels, shape (n, 2)."""
        return np.broadcast_to(np.array(self.array.shape[2:0:-1], np.int64), (len(self), 2))

    def __len__(self) -> int:
        return len(self.targets)

    def identity(self, row: int) -> str:
        """Return the SHA-256 of an image's shape and pixels, as ``image_digests`` defines it."""
        digest: NDArray[np.uint8] = self._digests[row]
        return digest.tobytes().hex()

    def path(self, row: int) -> str:  # noqa: ARG002
        """Return an empty path: no image has a file of its own."""
        return ""

    def image(self, row: int, *, at_least: int | None = None, fit: Fit | None = None) -> UInt8Image:  # noqa: ARG002
        """Return an image; it is there whole, whatever is asked for."""
        image: UInt8Image = self.array[row]
        return image

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        if self.index is None or not len(self):
            return image_digests(self.array)
        decided_by = {"format": _INDEX_FORMAT, "data": self.array_sha256, "images": len(self)}
        kept = KeptArray(self.index, decided_by, _INDEX_BYTES)
        if stored := kept.read(lambda stored: stored.values.shape == (len(self), 32)):
            return np.array(stored.values)
        digests = image_digests(self.array)
        kept.keep(digests)
        return digests
