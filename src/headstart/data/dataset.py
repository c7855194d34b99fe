"""A data set by its name: training images to use, and a test split that stays sealed until evaluation."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from headstart.contracts import ClassNames, listed
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import Stored, is_store, open_store
from headstart.data.sources.cifar10 import CIFAR10
from headstart.data.sources.memory import ArraySource
from headstart.data.sources.remote import obtain, open_local, remote_sources
from headstart.data.subset import Subset
from headstart.errors import DataError, nearest
from headstart.home import cache_home
from headstart.terminal import Terminal

KNOWN = ("cifar10",)
"""Data sets that headstart gets by itself."""


class SealedTest:
    """The test split, of which everything but the evaluation sees only hashes and label names."""

    def __init__(self, subset: Subset) -> None:
        self._subset = subset

    def __len__(self) -> int:
        return len(self._subset)

    def image_hashes(self) -> list[str]:
        """Return the SHA-256 of each image, in the data set's own order."""
        return list(self._subset.identities)

    def label_names(self) -> list[str]:
        """Return the class of each image by name, for the split manifest only."""
        return [self._subset.class_names[int(label)] for label in self._subset.labels]

    def open(self) -> Subset:
        """Return the test split. Only ``evaluation`` calls this, and logs each call in the run."""
        return self._subset


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: ``cifar10``, or what the folder's dataset.json says.
        train: All training images, or the first ``limit`` of them.
        sealed_test: All test images.
        class_names: In index order.
        sha256: Of the whole data set, whatever the limit; see ``Arrays.sha256``.
        source: Where the images came from, for people.
    """

    name: str
    train: Subset
    sealed_test: SealedTest
    class_names: ClassNames
    sha256: str
    source: str


def load_dataset(
    name: str, *, limit: int | None = None, data_dir: Path | None = None, progress: bool = True
) -> Dataset:
    """Load a data set, getting it first where necessary.

    Args:
        name: ``cifar10``, or the path of a folder in headstart's own format (see ``store``).
        limit: Keep only the first so many training images; the test split stays whole.
        data_dir: A local copy of CIFAR-10, file or folder; ``$HEADSTART_CIFAR10`` when None. Nothing is
            fetched then.
        progress: Whether to show a bar on stderr while something is fetched.

    Raises:
        DataError: An unknown data set, one that can't be had or is damaged, a limit that does not fit, a class
            without a training image, or no test images.
    """
    if limit is not None and limit < 1:
        raise DataError(f"The limit on training images must be 1 or more, but is {limit}.")
    stored = _stored(name, data_dir, progress)
    if not len(stored.arrays.test_labels):
        raise DataError(f"{stored.name} holds no test images, and a classifier is measured on some. Add a test split.")
    train = _training_split(stored, limit)
    sealed_test = SealedTest(Subset.whole(_source(stored, "test"), "test"))
    return Dataset(stored.name, train, sealed_test, stored.class_names, stored.sha256, stored.source)


def _source(stored: Stored, part: Literal["train", "test"]) -> ArraySource:
    """Return one part of a data set; the hashes of its images are kept for the next run."""
    arrays, digest = stored.arrays, stored.sha256
    images, labels = {
        "train": (arrays.train_images, arrays.train_labels),
        "test": (arrays.test_images, arrays.test_labels),
    }[part]
    index = cache_home() / "identities" / f"{digest[:32]}-{part}.npy"
    return ArraySource(images, labels, stored.class_names, index, digest)


def _stored(name: str, data_dir: Path | None, progress: bool) -> Stored:
    terminal = Terminal(enabled=progress)
    if name == "cifar10":
        folder = cache_home() / "datasets" / "cifar10"
        if data_dir is not None:
            return open_local(data_dir, folder, identity=CIFAR10, variable="--data-dir", terminal=terminal)
        if explicit := os.environ.get("HEADSTART_CIFAR10"):
            variable = "HEADSTART_CIFAR10"
            return open_local(Path(explicit), folder, identity=CIFAR10, variable=variable, terminal=terminal)
        return obtain(folder, identity=CIFAR10, sources=remote_sources(terminal), terminal=terminal)
    path = Path(name).expanduser()
    if not is_store(path):
        if path.is_dir():
            raise DataError(
                f"{path} is a folder without a dataset.json, so it is no data set that this version reads."
                f" Allowed: {', '.join(KNOWN)}, or a folder with dataset.json and the .npy files that belong"
                " to it."
            )
        raise DataError(
            f"Unknown data set '{name}'. Known: {', '.join(KNOWN)}; or give the path of a folder with a"
            f" dataset.json.{nearest(name, KNOWN)}"
        )
    if data_dir is not None:
        raise DataError(f"--data-dir is a local copy of cifar10, but the data set is already a folder: {path}.")
    return open_store(path)


def _training_split(stored: Stored, limit: int | None) -> Subset:
    arrays, names = stored.arrays, stored.class_names
    available = len(arrays.train_labels)
    if limit is not None and limit > available:
        raise DataError(
            f"The limit is {limit:,}, but {stored.name} has only {available:,} training images. Give at most"
            " that, or no limit."
        )
    count = available if limit is None else limit
    labels = arrays.train_labels[:count]
    if missing := [class_name for i, class_name in enumerate(names) if not (labels == i).any()]:
        remedy = _smallest_limit(arrays, names)
        absent = listed(missing)
        where = "the training set" if limit is None else f"the first {limit:,} training images"
        raise DataError(f"No image of {absent} is in {where} of {stored.name}. {remedy}")
    return Subset(_source(stored, "train"), np.arange(count, dtype=np.int64), "train")


def _smallest_limit(arrays: Arrays, names: ClassNames) -> str:
    firsts = [np.flatnonzero(arrays.train_labels == i)[:1] for i in range(len(names))]
    if not all(len(first) for first in firsts):
        return "Every class needs training images: add some, or take the class out."
    return f"The smallest limit with an image of every class is {max(int(first[0]) for first in firsts) + 1:,}."
