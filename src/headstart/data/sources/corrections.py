"""Corrected labels from a table: what looking through a data set has found, put to use without touching a file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headstart.contracts import listed
from headstart.data.sources.listing import Listing, named
from headstart.data.sources.tables import Columns, find_columns, read_table
from headstart.errors import DataError, nearest

DROP = "drop"
"""Label of an image that is to be left out."""


def corrected(listing: Listing, path: Path) -> Listing:
    """Return a listing with the labels of a table, whose columns are ``file_name`` and ``label``.

    Raises:
        DataError: The table can't be read, or names files or classes that there are none of; all are counted, and the
            first are named.
    """
    table = read_table(path)
    places = find_columns(path, table.names, Columns())
    known = {file.shown for file in listing.files}
    classes = {file.label for file in listing.files}
    labels: dict[str, str] = {}
    strangers: list[str] = []
    unknown: list[str] = []
    for line, cells in table.rows:
        name, label = str(cells[places.image]).strip(), str(cells[places.label]).strip()
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}, line {line}: '{name}' has two different labels. Keep one.")
        strangers += [name] if name not in known else []
        unknown += [label] if label not in classes and label != DROP else []
    _check(path, "files that are not in the data set", strangers, list(known))
    _check(path, f"labels that no image has (known are {listed(sorted(classes))}, and {DROP})", unknown, list(classes))
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


def _check(path: Path, what: str, wrong: Sequence[str], allowed: Sequence[str]) -> None:
    if wrong:
        hint = nearest(wrong[0], allowed[:10_000])
        raise DataError(f"{path} has {len(wrong):,} {what}: {named(wrong)}.{hint} Correct the table.")
