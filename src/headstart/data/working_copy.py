"""Every image of a split as a square of uint8, decoded once: what batches, features and measuring read from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from headstart.contracts import UInt8Image, UInt8Images
from headstart.data.decode import CODE_VERSION
from headstart.data.decode_missing import decode_missing
from headstart.data.preprocess import Preprocess
from headstart.data.square_cache import Packed, SquareCache
from headstart.data.subset import Subset
from headstart.errors import ImagesError
from headstart.terminal import SILENT, Terminal

if TYPE_CHECKING:
    from torch import Tensor

Places: TypeAlias = NDArray[np.int64] | slice
"""Which of several images are meant."""


@dataclass(frozen=True, eq=False)
class Squares:
    """The images of a subset as squares. Each keeps the side that it has: enlarging is the device's work.

    Attributes:
        subset: Which images, with their labels and identities.
        stacks: Squares of one side each, uint8, shape (k, s, s, 3), to be indexed with places; those of a cache lie on
            the disk and hold other images as well.
        stack: Number of the stack that holds each image, shape (n,).
        place: Place of each image in its stack, shape (n,).
        made_by: What made the squares out of the images; empty where each square is the image itself.
    """

    subset: Subset
    stacks: tuple[UInt8Images | Packed, ...] = field(repr=False)
    stack: NDArray[np.int64] = field(repr=False)
    place: NDArray[np.int64] = field(repr=False)
    made_by: str = ""

    def __len__(self) -> int:
        return len(self.subset)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Index of each image's class, shape (n,)."""
        return self.subset.labels

    def fingerprint(self) -> str:
        """Return the SHA-256 of what decides every pixel here: the images, and what made squares out of them."""
        return hashlib.sha256(f"{self.subset.sha256} {self.made_by}".encode()).hexdigest()

    def tensor(self, positions: NDArray[np.int64], make: Callable[[UInt8Images, Places], "Tensor"]) -> "Tensor":
        """Return what ``make`` makes of images, in order: shape (len(positions), ...).

        Args:
            positions: Positions in the subset, at least one.
            make: From a copy of squares of one side, uint8 of shape (k, s, s, 3), and their places among
                ``positions``, to a tensor of shape (k, ...). It is called once for each stack that is met.
        """

        def copied(number: int, chosen: NDArray[np.int64], places: Places) -> "Tensor":
            return make(self.stacks[number][self.place[chosen]], places)

        return self.gather(positions, copied)

    def gather(
        self, positions: NDArray[np.int64], make: Callable[[int, NDArray[np.int64], Places], "Tensor"]
    ) -> "Tensor":
        """Return what ``make`` makes of positions, in order: shape (len(positions), ...).

        Args:
            positions: Positions in the subset, at least one.
            make: From the number of a stack, the positions whose squares lie in it, and their places among
                ``positions``, to a tensor of shape (k, ...). It is called once for each stack that is met.
        """
        stacks = self.stack[positions]
        numbers = np.unique(stacks)
        if len(numbers) == 1:
            return make(int(numbers[0]), positions, slice(None))
        parts = {}
        for number in numbers.tolist():
            members = np.flatnonzero(stacks == number)
            parts[number] = members, make(number, positions[members], members)
        first = next(iter(parts.values()))[1]
        made = first.new_empty((len(positions), *first.shape[1:]))
        for members, part in parts.values():
            made[members] = part
        return made


def working_copy(
    subset: Subset, preprocess: Preprocess, *, side: int | None = None, terminal: Terminal = SILENT
) -> Squares:
    """Return the images of a subset as squares; nothing is copied where they lie in an array of small squares.

    All others are decoded and reduced once for all runs, and then read from headstart's cache.

    Args:
        subset: Which images.
        preprocess: How an image becomes a square.
        side: Largest side of a square, in pixels; ``preprocess.side`` when None. For images that are used at several
            sizes it is the largest of them.
        terminal: Where progress is shown.

    Raises:
        ImagesError: Images can't be read; it has the reason for each of them, by row.
        WriteError: The cache can't be written; what it holds already stays whole.
    """
    limit = side or preprocess.side
    array = subset.source.array
    if array is not None and array.shape[1] == array.shape[2] <= limit:
        # A plain array over the same memory: parts of a mapped one would be mapped ones by type, though not in fact.
        return Squares(subset, (np.asarray(array),), np.zeros(len(subset), np.int64), subset.rows)
    cache = SquareCache(f"{preprocess.square_fingerprint(limit)} decoder {CODE_VERSION} Pillow {pillow_version}")

    def square(position: int) -> UInt8Image:
        image = subset.image(position, at_least=limit, fit=preprocess.fit)
        reduced: UInt8Image = preprocess.square(image, side=limit).copy()  # a part of an image would keep all of it
        return reduced

    if bad := decode_missing(cache, subset, square, title="Decoding images", terminal=terminal):
        raise ImagesError(bad, of=len(subset))
    stacks, stack, place = cache.stacks(subset.identities)
    return Squares(subset, stacks, stack, place, cache.made_by)
