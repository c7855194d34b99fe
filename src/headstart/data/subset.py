"""Where images come from, as the rest of headstart sees it, and the part of them that a split is."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, Fit, SplitName, UInt8Image, UInt8Images
from headstart.data.arrays import BLOCK, release


class ImageSource(Protocol):
    """Labelled images that are read one by one; a folder of files implements the same protocol as an array does."""

    @property
    def classes(self) -> ClassNames:
        """The classes, in index order."""
        ...

    @property
    def targets(self) -> NDArray[np.int64]:
        """Index of each image's class, shape (n,)."""
        ...

    @property
    def array(self) -> UInt8Images | None:
        """All images as one uint8 array, shape (n, height, width, 3), where the source holds them so; else None."""
        ...

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each upright image in pixels, shape (n, 2)."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def identity(self, row: int) -> str:
        """Return the SHA-256 of an image; every image is hashed once in a process at most."""
        ...

    def path(self, row: int) -> str:
        """Return the path of an image's file relative to the data set's folder; empty where it has no file."""
        ...

    def image(self, row: int, *, at_least: int | None = None, fit: Fit | None = None) -> UInt8Image:
        """Return an image: upright, RGB, uint8, shape (height, width, 3); several threads may ask at the same time.

        Args:
            row: Its place in the source.
            at_least: As for ``decode_file``: a source may save work by decoding a large image reduced.
            fit: As for ``decode_file``: a source may leave out what the square does not show.

        Raises:
            DataError: The image can't be read; it is named.
        """
        ...


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a source, in order. It holds no pixels and copies none.

    Attributes:
        source: Where the images are.
        rows: Places of the images in the source, shape (n,).
        name: Split that these images make up.
    """

    source: ImageSource
    rows: NDArray[np.int64] = field(repr=False)
    name: SplitName

    @classmethod
    def whole(cls, source: ImageSource, name: SplitName) -> "Subset":
        """Return all images of a source."""
        return cls(source, np.arange(len(source), dtype=np.int64), name)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_names(self) -> ClassNames:
        """The classes, in index order."""
        return self.source.classes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Index of each image's class, shape (n,)."""
        return self.source.targets[self.rows]

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """SHA-256 of each image."""
        return tuple(self.source.identity(row) for row in self.rows.tolist())

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all identities in order: of which images this subset consists."""
        return hashlib.sha256("\n".join(self.identities).encode()).hexdigest()

    def image(self, position: int, *, at_least: int | None = None, fit: Fit | None = None) -> UInt8Image:
        """Return the image at a position of the subset, as ``ImageSource.image`` does."""
        return self.source.image(int(self.rows[position]), at_least=at_least, fit=fit)

    def blocks(self) -> Iterator[UInt8Images]:
        """Yield the images as they are, in order and in blocks of one size: uint8, shape (k, height, width, 3)."""
        array = self.source.array
        if array is None:
            for position in range(len(self)):
                yield self.image(position)[None]
            return
        for start in range(0, len(self), BLOCK):
            yield array[self.rows[start : start + BLOCK]]
            release(array)
