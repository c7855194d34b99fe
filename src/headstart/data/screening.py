"""Images that can't be read: found before anything is trained, and named or left out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from headstart.contracts import listed
from headstart.data.dataset import Dataset
from headstart.data.decode import decode_file
from headstart.data.sources.facts import find_damage
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.terminal import Terminal
from headstart.wording import counted

_ENOUGH = 32
"""Pixels to which an image is decoded in order to learn whether it can be; damage shows at any size."""


def screen(dataset: Dataset, *, on_bad: Literal["fail", "skip"], terminal: Terminal) -> Dataset:
    """Decode every file of a data set once, and return the data set without those that can't be read.

    Raises:
        DataError: Some can't be read and ``on_bad`` is ``fail``, or what is left is too little.
    """
    ledger = dataset.ledger
    if ledger is None:
        return dataset
    wanted = [file for file, row in zip(ledger.files, ledger.rows, strict=False) if row.split]
    with terminal.bar("Checking images", len(wanted)) as advance:
        found = find_damage(ledger.root, wanted, _decode, bar=advance)
    damaged = {file.shown: facts.reason for file, facts in zip(wanted, found, strict=True) if facts.reason}
    screened = without(dataset, damaged)
    assert screened.ledger is not None
    if on_bad == "fail":
        screened.ledger.check()
    elif refused := screened.ledger.refused():
        terminal.warn(
            f"{len(refused):,} of {len(ledger.rows):,} files can't be read and are left out; files.csv says which, "
            "and why."
        )
    return screened


def without(dataset: Dataset, damaged: Mapping[str, str]) -> Dataset:
    """Return a data set without the files that can't be read, given the reason for each by its path.

    Raises:
        DataError: A class has no image left to train on, or to validate on where the data set has such a split, or no
            test image is left at all.
    """
    if dataset.ledger is None or not damaged:
        return dataset
    left = replace(
        dataset,
        train=_kept(dataset.train, damaged),
        val=None if dataset.val is None else _kept(dataset.val, damaged),
        sealed_test=dataset.sealed_test.without(damaged),
        ledger=dataset.ledger.refuse(damaged),
    )
    trained = left.train.labels if left.val is None else left.train.labels[~np.isin(left.train.rows, left.val.rows)]
    # Without training images, all are measured on.
    names = dataset.class_names if len(dataset.train) else ()
    empty = [name for i, name in enumerate(names) if not (trained == i).any()]
    if empty or not len(left.sealed_test) or (left.val is not None and not len(left.val)):
        where = f"to train on of {listed(empty)}" if empty else "to validate or to test on"
        raise DataError(
            f"{counted(len(damaged), 'image')} in {dataset.ledger.root} can't be read, and without them there is none "
            f"left {where}. Repair them, or add images."
        )
    return left


def _kept(subset: Subset, damaged: Mapping[str, str]) -> Subset:
    kept = [row for row in subset.rows.tolist() if subset.source.path(row) not in damaged]
    return replace(subset, rows=np.array(kept, np.int64))


def _decode(path: Path) -> None:
    decode_file(path, at_least=_ENOUGH)
