"""Which files a command names: one by one, below folders, in a table's column ``file_name``, or on standard input.

Names come as they are read, so that a million of them take no more memory than one; only the names in one folder are
sorted.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from headstart.errors import InputError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
COLUMN = "file_name"
NAMED = 5
"""How many files a message names."""


@dataclass
class Skipped:
    """Files in folders whose names do not end like those of images: how many of which ending, and the first of them."""

    kinds: Counter[str] = field(default_factory=Counter)
    first: list[Path] = field(default_factory=list)

    def note(self, path: Path) -> None:
        """Count a file."""
        self.kinds[path.suffix.lower() or "without an ending"] += 1
        if len(self.first) < NAMED:
            self.first.append(path)


@dataclass(frozen=True)
class Named:
    """A file to predict, or a folder that can't be searched.

    Attributes:
        path: As it was given, or found.
        error: Why it can't be read; None where that is still to be tried.
    """

    path: Path
    error: str | None = None


def named_files(inputs: Iterable[Path], lines: TextIO, suffixes: frozenset[str], skipped: Skipped) -> Iterator[Named]:
    """Yield every file that the inputs name, in their order, each as often as it is named.

    Args:
        inputs: Files, folders, tables, and ``-`` for one path a line on standard input.
        lines: Standard input.
        suffixes: Endings of images, lower case.
        skipped: Takes note of other files in folders.

    Raises:
        InputError: A table can't be read, or has no column ``file_name``.
    """
    for path in inputs:
        if str(path) == "-":
            yield from (Named(Path(line.rstrip("\n"))) for line in lines if line.strip())
        elif os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a path that is too long
            yield from _below(path, suffixes, skipped)
        elif path.suffix.lower() in TABLES:
            yield from (Named(path.parent / name) for name in _column(path))
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
    why = "no permission to search it" if denied else f"can't be read ({error.strerror})"
    return Named(Path(error.filename), why)


def _column(table: Path) -> Iterator[str]:
    """Yield the column ``file_name`` of a table, row by row."""
    try:
        if table.suffix.lower() == ".parquet":
            yield from _parquet(table)
            return
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if table.suffix.lower() == ".jsonl":
                rows: Iterable[Any] = (json.loads(line) for line in file if line.strip())
            else:
                rows = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
                _check_column(table, rows.fieldnames or ())
            for number, row in enumerate(rows, 1):
                name = row.get(COLUMN) if isinstance(row, dict) else None
                if not isinstance(name, str) or not name:
                    raise InputError(f"{table}, row {number}: there is no {COLUMN}. Give every row one.")
                yield name
    except OSError as error:
        raise InputError(f"{table} can't be read: {error.strerror or error}.") from None
    except (ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{table} can't be read as a table: {error}.") from None


def _parquet(table: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        _check_column(table, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[COLUMN]):
            yield from map(str, batch.column(0).to_pylist())


def _check_column(table: Path, columns: Iterable[str]) -> None:
    if COLUMN not in columns:
        raise InputError(
            f"{table} has no column {COLUMN}, which names the images; its columns are {', '.join(columns) or 'none'}. "
            f"Rename the one that holds the paths, which count from the table's own folder."
        )
