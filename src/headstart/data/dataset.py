"""A data set by its name: training images to use, and a test split that stays sealed until evaluation."""

import os
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.contracts import HUB, ClassNames, listed
from headstart.data.arrays import Arrays
from headstart.data.file_dataset import FileOptions, group_pattern, grouped, open_files
from headstart.data.ledger import Ledger
from headstart.data.sources.arrays import Stored, is_store, open_store
from headstart.data.sources.cifar10 import CIFAR10
from headstart.data.sources.corrections import LEFT_OUT, corrected, corrected_arrays
from headstart.data.sources.discover import discover, is_table
from headstart.data.sources.hub import fetch_dataset
from headstart.data.sources.memory import ArraySource
from headstart.data.sources.remote import obtain, open_local, remote_sources
from headstart.data.sources.tables import TABLES, Columns, read_table
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.files import expanded, nearest_path
from headstart.home import cache_of
from headstart.terminal import Terminal, visible

KNOWN = ("cifar10",)
"""Data sets that headstart gets by itself."""
_ALLOWED = (
    f"Give a folder of images, a table of them ({', '.join(TABLES)}), hf://owner/name, or a known data set "
    f"({', '.join(KNOWN)})."
)


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

    def rows(self) -> list[int]:
        """Return the place of each image in the data set's own order of test images."""
        rows: list[int] = self._subset.rows.tolist()
        return rows

    def without(self, paths: Container[str]) -> "SealedTest":
        """Return the test split without the images in these files."""
        source, rows = self._subset.source, self.rows()
        kept = np.array([row for row in rows if source.path(row) not in paths], np.int64)
        return SealedTest(replace(self._subset, rows=kept))

    def open(self) -> Subset:
        """Return the test split. Only ``evaluation`` calls this, and logs each call in the run."""
        return self._subset


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: ``cifar10``, what the folder's dataset.json says, or the name of a folder of images.
        train: All images to train and validate on, or ``limit`` of them.
        sealed_test: All test images.
        class_names: In index order.
        sha256: Of the whole data set, whatever the limit; see ``Arrays.sha256``.
        source: Where the images came from, for people.
        val: Those of the training images that validate; None where they are still to be drawn.
        ledger: What became of every file; None where the images lie in arrays.
        licence: Licence of the images, where the data set tells it.
        notes: How the splits were drawn, as sentences for people.
        copies: Number of images that are exact copies of others, of images with near copies (None where they were not
            looked for), of test images that would have a near copy in train if these were ignored, of groups that the
            data set's own splits divide, and of equal images with contradictory labels, with files; None where images
            lie in arrays.
    """

    name: str
    train: Subset
    sealed_test: SealedTest
    class_names: ClassNames
    sha256: str
    source: str
    val: Subset | None = None
    ledger: Ledger | None = None
    licence: str | None = None
    notes: tuple[str, ...] = ()
    copies: dict[str, Any] | None = None


def load_dataset(
    name: str,
    *,
    limit: int | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
    options: FileOptions | None = None,
) -> Dataset:
    """Load a data set, getting it first where necessary.

    Args:
        name: ``cifar10``, the path of a folder of images, or that of a folder in headstart's own format (see
            ``store``).
        limit: Number of training images to keep: the first of arrays, a stratified draw of files; the test split
            stays whole.
        data_dir: A local copy of CIFAR-10, file or folder; ``$HEADSTART_CIFAR10`` when None. Nothing is
            fetched then.
        progress: Whether to show bars on stderr while something is fetched or read.
        options: How files become a data set; arrays have their labels and splits already.

    Raises:
        DataError: An unknown data set, one that can't be had or is damaged, a limit that does not fit, a class
            without a training image, no test images, or options that the data set has no use for.
    """
    if limit is not None and limit < 1:
        raise DataError(f"The limit on training images must be 1 or more, but is {limit}.")
    options = options or FileOptions()
    check_there(name)
    if in_files(name):
        _check_no_copy(data_dir, expanded(name))
        return _from_files(name, options, limit, Terminal(enabled=progress))
    _check_unused(options, name)
    stored = _stored(name, data_dir, progress)
    if options.classifier is None and not len(stored.arrays.test_labels):
        raise DataError(f"{stored.name} holds no test images, and a classifier is measured on some. Add a test split.")
    sha256 = stored.sha256
    if options.labels_from:
        stored = corrected_arrays(stored, Path(options.labels_from))
        sha256 = stored.arrays.sha256()
    train = _training_split(stored, limit, complete=options.classifier is None)
    tested = np.flatnonzero(stored.arrays.test_labels != LEFT_OUT)
    sealed_test = SealedTest(Subset(_source(stored, "test"), tested, "test"))
    return Dataset(stored.name, train, sealed_test, stored.class_names, sha256, stored.source)


def check_there(name: str) -> None:
    """Raise DataError where a name is that of no data set and no path that leads anywhere; the nearest is offered."""
    path = expanded(name)
    # pathlib raises for a path that is too long.
    if name not in KNOWN and not name.startswith(HUB) and not os.path.exists(path):  # noqa: PTH110
        hint = nearest_path(path, KNOWN)
        raise DataError(f"There is no data set '{visible(name)[:200]}': no such folder or table.{hint} {_ALLOWED}")


def in_files(name: str) -> bool:
    """Return whether the images of a data set lie in files, not in arrays."""
    path = expanded(name)
    return name.startswith(HUB) or (name not in KNOWN and not is_store(path) and (path.is_dir() or is_table(path)))


def _from_files(name: str, options: FileOptions, limit: int | None, terminal: Terminal) -> Dataset:
    columns = Columns(options.image_column, options.label_column, options.group_column)
    fetched = fetch_dataset(name, terminal) if name.startswith(HUB) else None
    path = fetched.folder if fetched else expanded(name).absolute()
    # What is wrong with these must not be told after a million files were listed.
    group = group_pattern(options.group_from) if options.group_from else None
    if options.labels_from:
        read_table(Path(options.labels_from))
    listing = discover(path, columns, on_bad=options.on_bad, terminal=terminal)
    if options.labels_from:
        listing = corrected(listing, Path(options.labels_from))
    if group:
        listing = replace(listing, files=grouped(listing.files, group))
    parts = open_files(listing, options, limit=limit, terminal=terminal)
    return Dataset(
        name=fetched.name if fetched else path.stem if path.is_file() else path.name,
        train=parts.train,
        sealed_test=SealedTest(parts.test),
        class_names=parts.train.class_names,
        sha256=parts.sha256,
        source=f"{fetched.source if fetched else path} ({listing.layout})",
        val=parts.val,
        ledger=parts.ledger,
        licence=fetched.licence if fetched else None,
        notes=parts.notes,
        copies=parts.copies,
    )


def _check_no_copy(data_dir: Path | None, path: Path) -> None:
    if data_dir is not None:
        raise DataError(f"--data-dir is a local copy of cifar10, but the data set is already a folder: {path}.")


def _check_unused(options: FileOptions, name: str) -> None:
    """Refuse settings that arrays would ignore; their share of validation images is drawn later."""
    used = {"val_fraction", "seed", "former", "labels_from", "classifier"}
    given = {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    # Nobody looks for near copies in arrays.
    if unused := sorted(given - used - ({"near_copies"} if options.near_copies == "ignore" else set())):
        raise DataError(
            f"data.{', data.'.join(unused)}: only folders and tables of image files have a use for it, and {name} is "
            "none. Leave it out."
        )


def _source(stored: Stored, part: Literal["train", "test"]) -> ArraySource:
    """Return one part of a data set; the hashes of its images are kept for the next run."""
    arrays, digest = stored.arrays, stored.sha256
    images, labels = {
        "train": (arrays.train_images, arrays.train_labels),
        "test": (arrays.test_images, arrays.test_labels),
    }[part]
    index = cache_of("identities") / f"{part}-{digest[:32]}.npy"
    return ArraySource(images, labels, stored.class_names, index, digest)


def _stored(name: str, data_dir: Path | None, progress: bool) -> Stored:
    terminal = Terminal(enabled=progress)
    if name == "cifar10":
        folder = cache_of("datasets") / "cifar10"
        if data_dir is not None:
            return open_local(data_dir, folder, identity=CIFAR10, variable="--data-dir", terminal=terminal)
        if explicit := os.environ.get("HEADSTART_CIFAR10"):
            variable = "HEADSTART_CIFAR10"
            return open_local(Path(explicit), folder, identity=CIFAR10, variable=variable, terminal=terminal)
        return obtain(folder, identity=CIFAR10, sources=remote_sources(terminal), terminal=terminal)
    path = expanded(name)
    if not is_store(path):
        raise DataError(f"{visible(name)} is neither a folder nor a table. {_ALLOWED}")
    _check_no_copy(data_dir, path)
    return open_store(path)


def _training_split(stored: Stored, limit: int | None, *, complete: bool) -> Subset:
    arrays, names = stored.arrays, stored.class_names
    available = len(arrays.train_labels)
    if limit is not None and limit > available:
        raise DataError(
            f"The limit is {limit:,}, but {stored.name} has only {available:,} training images. Give at most"
            " that, or no limit."
        )
    count = available if limit is None else limit
    labels = arrays.train_labels[:count]
    if complete and (missing := [class_name for i, class_name in enumerate(names) if not (labels == i).any()]):
        remedy = _smallest_limit(arrays, names)
        absent = listed(missing)
        where = "the training set" if limit is None else f"the first {limit:,} training images"
        raise DataError(f"No image of {absent} is in {where} of {stored.name}. {remedy}")
    return Subset(_source(stored, "train"), np.flatnonzero(labels != LEFT_OUT), "train")


def _smallest_limit(arrays: Arrays, names: ClassNames) -> str:
    firsts = [np.flatnonzero(arrays.train_labels == i)[:1] for i in range(len(names))]
    if not all(len(first) for first in firsts):
        return "Every class needs training images: add some, or take the class out."
    return f"The smallest limit with an image of every class is {max(int(first[0]) for first in firsts) + 1:,}."
