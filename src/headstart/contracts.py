"""What the rooms exchange: small frozen dataclasses without behaviour of their own beyond checking."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.errors import DataError, nearest

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["crop", "pad", "stretch"]
"""How an image that is not square becomes one."""
FEW_TO_CHOOSE_BY = 100
"""Validation images; with fewer, what validation chooses or calibrates is mostly chance, and that is said."""
UInt8Images = NDArray[np.uint8]
"""Images as stored: shape (n, height, width, 3), RGB, 0-255."""


@dataclass(frozen=True)
class ClassNames:
    """The classes of a classifier, in the order of its outputs; names are unique and non-empty."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise DataError for fewer than two names, duplicates or empty names."""
        if len(self.names) < 2:
            there = f"only '{self.names[0]}'" if self.names else "none"
            raise DataError(f"A classifier needs images of at least two classes, but there is {there}. Add another.")
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise DataError(f"Class names must be unique and non-empty, but got {list(self.names)}.")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def index(self, name: str) -> int:
        """Return the output index of ``name``; raise DataError naming the nearest match."""
        if name not in self.names:
            raise DataError(f"Unknown class '{name}'. Classes: {', '.join(self.names)}.{nearest(name, self.names)}")
        return self.names.index(name)


@dataclass(frozen=True)
class Predictions:
    """Calibrated probabilities for a batch of images.

    Attributes:
        probabilities: Shape (n, classes), float32; rows sum to 1.
        class_names: In the order of the columns.
    """

    probabilities: NDArray[np.float32]
    class_names: ClassNames

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
        return [
            [(self.class_names[int(i)], float(row[i])) for i in best]
            for best, row in zip(order, self.probabilities, strict=True)
        ]


@dataclass(frozen=True)
class EpochRecord:
    """One row of ``history.csv``. Losses are mean cross-entropies in nats; ``val`` is the validation split."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    image_size: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class EvalResult:
    """What was measured on one split, by the classifier as it is shipped.

    Attributes:
        split: ``val`` or ``test``.
        labels: True classes as indices, shape (n,).
        predictions: Calibrated probabilities, shape (n, classes).
        metrics: The values that ``metrics.json`` shows for this split.
    """

    split: Literal["val", "test"]
    labels: NDArray[np.int64]
    predictions: Predictions
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Images with labels.

    Attributes:
        images: Shape (n, height, width, 3), uint8 RGB; may be memory-mapped.
        labels: Shape (n,), int64 indices into ``class_names``.
        class_names: In index order.
        name: ``train``, ``val`` or ``test``.
        rows: Shape (n,), the position of each image in the data set's own order, for the manifest.
    """

    images: UInt8Images
    labels: NDArray[np.int64]
    class_names: ClassNames
    name: Literal["train", "val", "test"]
    rows: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)
