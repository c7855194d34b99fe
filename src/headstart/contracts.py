"""What the rooms exchange: small frozen dataclasses without behaviour of their own beyond checking."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError, nearest

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["crop", "pad", "stretch"]
"""How an image that is not square becomes one."""
FEW_TO_CHOOSE_BY = 100
"""Validation images; with fewer, what validation chooses or calibrates is mostly chance, and that is said."""
HUB = "hf://"
"""How the address of a repository on the Hugging Face Hub begins: ``hf://owner/name``."""
HUB_EXPORT = "export"
"""Folder of a repository in which an export lies beside the bundle."""
SplitName = Literal["train", "val", "test"]
UInt8Image = NDArray[np.uint8]
"""One image: shape (height, width, 3), RGB, 0-255."""
UInt8Images = NDArray[np.uint8]
"""Images of one size: shape (n, height, width, 3), RGB, 0-255."""


_LISTED, _LONGEST = 10, 80
"""Names in one error message, and characters of each."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""
_GUARDED = tuple(f"'{mark}" for mark in (*_FORMULA, "'"))
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories that no class name may contain: control characters, lone surrogates, line separators."""


def listed(names: Iterable[str], *, most: int = _LISTED) -> str:
    """Return names in quotes for an error message, cut where there are many or a name is long.

    Example:
        >>> listed(["cat", "dog", "bird", "frog"], most=2)
        "'cat', 'dog' and 2 more"
    """
    quoted = [f"'{name}'" if len(name) <= _LONGEST else f"'{name[:_LONGEST]}...'" for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most:,} more" if len(quoted) > most else "")


@dataclass(frozen=True)
class ClassNames:
    """The classes of a classifier, in the order of its outputs: unique, not empty, and each fit to stand in a line."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise DataError for fewer than two names, and for names that are repeated, empty or not printable."""
        if len(self.names) < 2:
            there = f"only '{self.names[0]}'" if self.names else "none"
            raise DataError(f"A classifier needs images of at least two classes, but there is {there}. Add another.")
        if not all(self.names):
            raise DataError(f"A class name is empty, at index {self.names.index('')}. Give every class a name.")
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise DataError(f"Class names must be unique, but these occur more than once: {listed(repeated)}.")
        if odd := [name for name in self.names if {unicodedata.category(mark) for mark in name} & _UNPRINTABLE]:
            raise DataError(
                "Class names can't contain control characters, line separators or what is not UTF-8, but these do: "
                f"{listed(ascii(name)[1:-1] for name in odd)}. Rename the classes."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def index(self, name: str) -> int:
        """Return the output index of ``name``; raise DataError naming the nearest match."""
        if name not in self.names:
            raise DataError(f"Unknown class '{name}'. Classes: {listed(self.names)}.{nearest(name, self.names)}")
        return self.names.index(name)


def guarded(name: str) -> str:
    """Return a class name that no spreadsheet takes for a formula: with an apostrophe before it, where one might."""
    return f"'{name}" if name.startswith((*_FORMULA, *_GUARDED)) else name


def unguarded(cell: str) -> str:
    """Return the class name that ``guarded`` was given."""
    return cell[1:] if cell.startswith(_GUARDED) else cell


@dataclass(frozen=True)
class Predictions:
    """Calibrated probabilities for a batch of images.

    Attributes:
        probabilities: Shape (n, classes), float32; rows sum to 1.
        class_names: In the order of the columns.
        unsure: Whether each probability is too low to be relied on, shape (n,); None where the classifier has no
            threshold, as is the case with those of early versions.
        novelty: How unlike the training images each image is, float32, shape (n,); None where that was not measured.
        unfamiliar: Whether each image is too unlike them, shape (n,); None where that was not measured.
        evidence: Where the evidence for the most probable class lies, float32, shape (n, rows, columns), from 0 to 1,
            the largest value of each; None where that was not asked for.
    """

    probabilities: NDArray[np.float32]
    class_names: ClassNames
    unsure: NDArray[np.bool_] | None = None
    novelty: NDArray[np.float32] | None = None
    unfamiliar: NDArray[np.bool_] | None = None
    evidence: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Most probable class of each image, as an index: shape (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def labels(self) -> list[str]:
        """Most probable class of each image, by name."""
        return [self.class_names[int(i)] for i in self.indices]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return for each image the ``k`` most probable classes, as (name, probability), best first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(self.probabilities, order, axis=1)
        names = self.class_names.names
        return [
            [(names[index], value) for index, value in zip(best, row, strict=True)]
            for best, row in zip(order.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class EpochRecord:
    """One row of ``history.csv``.

    Both losses are mean cross-entropies in nats, without label smoothing and class weights, so that they can be
    compared. Training loss and accuracy are those of the augmented images as the network meets them, mixed images with
    their mixed labels; ``val`` is the validation split. ``val_balanced_accuracy`` is the mean recall of the classes
    there, which selects the epoch where classes are uneven; None where they are even and accuracy selects.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    image_size: int
    seconds: float
    images_per_second: float
    val_balanced_accuracy: float | None = None


class Validated(NamedTuple):
    """How good a network is on the validation split.

    Attributes:
        loss: Mean cross-entropy in nats.
        accuracy: Share of the images given the right label.
        balanced: Mean recall of the classes; None where the classes of the training images are even.
    """

    loss: float
    accuracy: float
    balanced: float | None = None

    @property
    def score(self) -> tuple[float, float]:
        """What selects an epoch, larger is better: accuracy, balanced where classes are uneven; then the loss."""
        return self.accuracy if self.balanced is None else self.balanced, -self.loss


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def value_of(result: _Result, key: str) -> Any:
    """Return one value of a result that can be read as a mapping: its ``__getitem__``."""
    return result.to_dict()[key]


def keys_of(result: _Result) -> Iterator[str]:
    """Return the keys of such a result: its ``__iter__``."""
    return iter(result.to_dict())


def number_of_keys(result: _Result) -> int:
    """Return the number of its keys: its ``__len__``."""
    return len(result.to_dict())
