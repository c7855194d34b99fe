"""Tables that name image files and their labels: CSV, TSV, JSON lines and parquet.

Paths count from the table's folder. Columns are found by their usual names, or named by the caller. Rows are read one
after another, so that a table of ten million rows takes no more memory than the files that it names.
"""

import codecs
import csv
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from headstart.contracts import SplitName
from headstart.data.sources.listing import SPLITS, FoundFile, Listing, named, seen
from headstart.data.sources.parquet import Table, parquet_table
from headstart.errors import DataError, nearest
from headstart.files import nearest_path, open_regular, reading
from headstart.wording import counted

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of tables."""
IMAGE_COLUMNS = ("file_name", "filename", "file", "path", "image", "img", "image_path", "filepath", "file_path")
PATHS = ("--image-column", "the paths of images")
"""Option for the first of these columns, and what it holds."""
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
_MISSING = ("file", "that can't be found")
_SHOWN = 3
_CHUNK = 2**20
_LONGEST_CELL = 2**24
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None where one is found by its usual names."""

    image: str | None = None
    label: str | None = None
    group: str | None = None


class Places(NamedTuple):
    """Where the columns stand in a row."""

    image: int
    label: int
    split: int | None
    group: int | None


def list_table(path: Path, columns: Columns, *, on_bad: Literal["fail", "skip"] = "fail") -> Listing:
    """Find the images that a table names.

    Raises:
        DataError: The table can't be read, lacks a column, or has rows that can't be used; they are counted, and the
            first of each kind are named.
    """
    files = read_files(path, columns, on_bad=on_bad)
    return Listing(path.parent, f"table {path.name}", tuple(sorted(files, key=lambda file: file.path)))


def read_files(path: Path, columns: Columns, *, on_bad: Literal["fail", "skip"], below: str = "") -> list[FoundFile]:
    """Return the files that a table names, by the path ``below`` that leads from the root to the table's folder."""
    table = read_table(path)
    places = find_columns(path, table.names, columns)
    found: dict[str, FoundFile] = {}
    problems: dict[tuple[str, str], list[str]] = defaultdict(list)
    counts: Counter[tuple[str, str]] = Counter()

    def note(problem: tuple[str, str], where: str) -> None:
        counts[problem] += 1
        if len(problems[problem]) < _SHOWN:
            problems[problem].append(where)

    repeated = 0
    for line, cells in table.rows:
        name, label = cell_text(cells[places.image]), cell_text(cells[places.label])
        split = "" if places.split is None else cell_text(cells[places.split])
        if not name or not label:
            note(("row", "without a file name or without a label"), f"line {line}")
        elif isinstance(cells[places.label], (list, dict)):
            note(("row", "whose label is a list or an object, where one word is needed"), f"line {line}")
        elif split and split.lower() not in SPLITS:
            note(("row", "with an unknown split (train, val or test)"), f"line {line}: {split[:40]}")
        elif (known := found.get(f"{below}{name}")) is not None:
            repeated += 1
            if known.label != label or known.split != SPLITS.get(split.lower(), ""):
                note(("file", "with different labels or splits in two rows"), f"line {line}: {name}")
        else:
            size, modified = seen(os.path.join(path.parent, name))  # noqa: PTH118 (a million times)
            if size < 0 and on_bad == "fail":
                note(_MISSING, name)
            else:
                home: SplitName | Literal[""] = SPLITS.get(split.lower(), "")
                group = "" if places.group is None else cell_text(cells[places.group])
                found[f"{below}{name}"] = FoundFile(f"{below}{name}", size, modified, label, home, group)
    if problems:
        told = "; ".join(
            f"{counted(counts[noun, what], noun)} {what} ({named(where)})" for (noun, what), where in problems.items()
        )
        remedy = "Correct the table."
        if _MISSING in problems:
            remedy += (
                " Paths count from its folder and have / between their parts. To go on without the files that are "
                "missing: --on-bad skip."
            )
        raise DataError(f"{path} can't be used: {told}. {remedy}")
    if not found:
        raise DataError(f"{path} has no rows below its heading. Give a table with a row for each image.")
    if repeated:
        left_out = "1 row is a repetition and is" if repeated == 1 else f"{repeated:,} rows are repetitions and are"
        logger.warning("%s names files more than once: %s left out.", path, left_out)
    return list(found.values())


def read_table(path: Path) -> Table:
    """Open a table.

    Raises:
        DataError: It can't be read or is damaged; the line is named, where it is known, now or while rows are read.
    """
    hint = "" if os.path.exists(path) else nearest_path(path).strip()  # noqa: PTH110 - pathlib raises for odd paths
    with reading(path, DataError, hint):
        open_regular(path).close()  # a pipe would be waited for, and a device may never end
        if path.suffix.lower() == ".parquet":
            return parquet_table(path)
        encoding = _encoding(path)
        read = _json_lines if path.suffix.lower() in {".jsonl", ".ndjson"} else _separated
        return read(path, encoding)


def find_columns(path: Path, names: Sequence[str], columns: Columns) -> Places:
    """Return where the columns of a table stand.

    Raises:
        DataError: One is missing; the nearest name is offered.
    """

    def optional(given: str | None, usual: str) -> int | None:
        known = given is not None or usual in {name.strip().lower() for name in names}
        return find_column(path, names, given, (usual,), ("--group-column", usual)) if known else None

    return Places(
        image=find_column(path, names, columns.image, IMAGE_COLUMNS, PATHS),
        label=find_column(path, names, columns.label, LABEL_COLUMNS, ("--label-column", "labels")),
        split=optional(None, "split"),
        group=optional(columns.group, "group"),
    )


def find_column(
    path: Path, names: Sequence[str], given: str | None, usual: Sequence[str], told: tuple[str, str]
) -> int:
    """Return where a column of a table stands.

    Args:
        path: The table, for errors.
        names: Names of its columns.
        given: Name of the column; None where it has a usual name.
        usual: The usual names, in lower case.
        told: Option by which the column is named, empty where there is none, and what it holds, for errors.

    Raises:
        DataError: It is missing, and the nearest name is offered, or there more than once.
    """
    if not names:
        raise DataError(f"{path} is empty. Give a table with a heading and a row for each image.")
    there = f"It has: {', '.join(names)[:500]}."
    if given is None:
        known, wanted = [name.strip().lower() for name in names], list(usual)
    elif given in names:
        known, wanted = list(names), [given]
    else:
        raise DataError(f"{path} has no column '{given}'. {there}{nearest(given, names)}")
    for name in wanted:
        if (times := known.count(name)) > 1:
            raise DataError(f"{path} has {times} columns '{name}'. Remove or rename all but one. {there}")
        if times:
            return known.index(name)
    option, what = told
    remedy = f"Name the column with {option}, or call it '{usual[0]}'." if option else f"Call it '{usual[0]}'."
    raise DataError(f"{path} has no column with {what}. {there} {remedy}{nearest(usual[0], names)}")


def _separated(path: Path, encoding: str) -> Table:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline(_CHUNK)
    separator = next((sign for sign in ("\t", ",", ";") if sign in first), ",")

    def lines() -> Generator[tuple[int, list[str]], None, None]:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            try:
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
            except (csv.Error, UnicodeError) as error:
                raise DataError(f"{path}, line {reader.line_num}: {error}.") from None

    with closing(lines()) as head:
        names = next(head, (0, []))[1]

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, cells in islice(lines(), 1, None):
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {number}: {counted(len(cells), 'cell')} for {counted(len(names), 'column')}."
                )
            yield number, cells

    return Table(names, rows())


def _json_lines(path: Path, encoding: str) -> Table:
    def objects() -> Generator[tuple[int, dict[str, Any]], None, None]:
        with path.open(encoding=encoding) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                    os.fsencode(json.dumps(value, ensure_ascii=False) if "\\" in line else "")  # no half characters
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from None
                if not isinstance(value, dict):
                    raise DataError(f"{path}, line {number}: not a JSON object.")
                yield number, value

    names = list(dict.fromkeys(name for _, value in objects() for name in value))
    return Table(names, ((number, [value.get(name) for name in names]) for number, value in objects()))


def _encoding(path: Path) -> str:
    """Return UTF-8, with or without a byte-order mark, UTF-16 where it has its mark, or Windows' Western encoding.

    Raises:
        DataError: The file is text in none of them.
    """
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252"):
            file.seek(0)
            decoder = codecs.getincrementaldecoder(encoding)()
            try:
                while chunk := file.read(_CHUNK):
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                continue
            if encoding == "cp1252":
                logger.warning(
                    "%s is not UTF-8 and is read as Windows-1252 (Latin-1). Save it as UTF-8 to be sure.", path
                )
            return encoding
    raise DataError(f"{path} is text in none of UTF-8, UTF-16 and Windows-1252 (Latin-1). Save it as UTF-8.")


def cell_text(value: Any) -> str:
    """Return a cell as text without spaces around it; a number as it is written, and nothing for an empty cell."""
    if isinstance(value, str):
        return value.strip()
    # NaN, which differs from itself, is what pandas writes for nothing.
    return "" if value is None or value != value else str(value)
