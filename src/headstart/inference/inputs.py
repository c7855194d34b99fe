"""Which files a command names: one by one, below folders, in a table, or on standard input.

Names come as they are read, so that a million of them take no more memory than one; only the names in one folder are
sorted.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from headstart.data.sources.tables import IMAGE_COLUMNS, PATHS, TABLES, cell_text, find_column, read_table
from headstart.errors import InputError

NAMED = 5
"""How many files a message names."""


@dataclass
class Skipped:
    """Files in folders whose names do not end like those of images: how many of which ending, and the first of them."""

    kinds: Counter[str] = field(default_factory=Counter)
    first: list[Path] = field(default_factory=list)
    each: Callable[[Path], object] | None = None
    """Told every one of them."""

    def note(self, path: Path) -> None:
        """Count a file."""
        self.kinds[path.suffix.lower() or "without an ending"] += 1
        if len(self.first) < NAMED:
            self.first.append(path)
        if self.each is not None:
            self.each(path)


@dataclass(frozen=True)
class Named:
    """A file to predict, or a folder that can't be searched.

    Attributes:
        path: As it was given, or found.
        error: Why it can't be read; None where that is still to be tried.
    """

    path: Path
    error: str | None = None


def named_files(
    inputs: Iterable[Path], lines: TextIO, suffixes: frozenset[str], skipped: Skipped, column: str | None = None
) -> Iterator[Named]:
    """Yield every file that the inputs name, in their order, each as often as it is named.

    Args:
        inputs: Files, folders, tables, and ``-`` for one path a line on standard input.
        lines: Standard input.
        suffixes: Endings of images, lower case.
        skipped: Takes note of other files in folders.
        column: Column of tables that holds the paths; found by its usual names when None.

    Raises:
        InputError: A table can't be read, or has no such column.
    """
    for path in inputs:
        if str(path) == "-":
            yield from (Named(Path(line.rstrip("\n"))) for line in lines if line.strip())
        elif os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a path that is too long
            yield from _below(path, suffixes, skipped)
        elif path.suffix.lower() in TABLES:
            yield from (Named(path.parent / name) for name in _column(path, column))
        else:
            yield Named(path)


def _below(folder: Path, suffixes: frozenset[str], skipped: Skipped) -> Iterator[Named]:
    """Yield the images below a folder, folder by folder; hidden files and links to folders are left out."""
    refused: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=refused.append):
        while refused:
            yield _unsearched(refused.pop())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in suffixes:
                yield Named(path)
            else:
                skipped.note(path)
    yield from map(_unsearched, refused)


def _unsearched(error: OSError) -> Named:
    denied = isinstance(error, PermissionError)
    return Named(Path(error.filename), "no permission to search it" if denied else f"can't be read ({error.strerror})")


def _column(table: Path, given: str | None) -> Iterator[str]:
    """Yield the paths in a table, row by row."""
    found = read_table(table)
    place = find_column(table, found.names, given, IMAGE_COLUMNS, PATHS)
    for line, cells in found.rows:
        if not (name := cell_text(cells[place])):
            raise InputError(
                f"{table}, line {line}: the column '{found.names[place]}' is empty. Give every row a path."
            )
        yield name
