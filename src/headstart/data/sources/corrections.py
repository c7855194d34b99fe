"""Corrected labels from a table: what looking through a data set has found, put to use without touching a file."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.contracts import listed, unguarded
from headstart.data.sources.arrays import Stored
from headstart.data.sources.listing import Listing, named
from headstart.data.sources.tables import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, read_table
from headstart.errors import DataError, nearest
from headstart.wording import counted

DROP = "drop"
"""Label of an image that is to be left out."""
LEFT_OUT = -1
"""Index of that label in arrays."""


def read_corrections(path: Path, known: Collection[str], classes: Collection[str]) -> dict[str, str]:
    """Return the labels of a table by image, from its columns ``file_name`` and ``label``.

    ``known`` are the names of the images, ``classes`` the labels that there are besides ``drop``.

    Raises:
        DataError: The table can't be read, or names images or classes that there are none of; all are counted, and the
            first are named.
    """
    table = read_table(path)
    image = find_column(path, table.names, None, IMAGE_COLUMNS, ("", "the names of images"))
    column = find_column(path, table.names, None, LABEL_COLUMNS, ("", "labels"))
    labels: dict[str, str] = {}
    strangers: list[str] = []
    unknown: list[str] = []
    for line, cells in table.rows:
        name = _plain(str(cells[image]).strip(), known)
        label = _plain(str(cells[column]).strip(), classes)
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}, line {line}: '{name}' has two different labels. Keep one.")
        strangers += [name] if name not in known else []
        unknown += [label] if label not in classes and label != DROP else []
    _check(path, ("file that is", "files that are"), "not in the data set", strangers, known)
    allowed = f"(known are {listed(sorted(classes))}, and {DROP})"
    _check(path, ("label", "labels"), f"that no image has {allowed}", unknown, classes)
    return labels


def corrected(listing: Listing, path: Path) -> Listing:
    """Return a listing with the labels of a table; see ``read_corrections``."""
    classes = {file.label for file in listing.files}
    labels = read_corrections(path, {file.shown for file in listing.files}, classes)
    dropped = {name for name, label in labels.items() if label == DROP and DROP not in classes}
    return replace(
        listing,
        files=tuple(
            file._replace(label=labels.get(file.shown, file.label))
            for file in listing.files
            if file.shown not in dropped
        ),
        passed_over=(*listing.passed_over, *((name, f"dropped by {path.name}") for name in sorted(dropped))),
    )


def corrected_arrays(stored: Stored, path: Path) -> Stored:
    """Return arrays with the labels of a table, which calls their images ``train/0``, ``train/1``, ``test/0``, ...

    The label of an image to leave out is ``LEFT_OUT``.
    """
    arrays, names = stored.arrays, list(stored.class_names)
    by_part = {"train": arrays.train_labels.copy(), "test": arrays.test_labels.copy()}
    known = {f"{part}/{row}" for part, labels in by_part.items() for row in range(len(labels))}
    for name, label in read_corrections(path, known, names).items():
        part, row = name.split("/")
        by_part[part][int(row)] = names.index(label) if label in names else LEFT_OUT
    return replace(stored, arrays=replace(arrays, train_labels=by_part["train"], test_labels=by_part["test"]))


def _plain(cell: str, known: Collection[str]) -> str:
    """Return the name in a cell, without the apostrophe that ``explore`` puts before what looks like a formula."""
    return cell if cell in known else unguarded(cell)


def _check(path: Path, nouns: tuple[str, str], what: str, wrong: Sequence[str], allowed: Collection[str]) -> None:
    if wrong:
        hint = nearest(wrong[0], list(allowed)[:10_000])
        raise DataError(f"{path} has {counted(len(wrong), *nouns)} {what}: {named(wrong)}.{hint} Correct the table.")
