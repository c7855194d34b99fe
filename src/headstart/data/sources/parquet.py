"""Parquet files, row by row; numbers that stand for class names are read as the names."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headstart.errors import DataError

_BATCH = 256
_BYTES = {"binary", "large_binary", "binary_view"}
"""Types of columns, as pyarrow calls them; polars writes the second, or the third."""


class Table(NamedTuple):
    """The names of a table's columns, and its rows with the number of the line that each stands in."""

    names: list[str]
    rows: Iterator[tuple[int, Sequence[Any]]]


def image_columns(path: Path) -> dict[str, bool]:
    """Return the columns of a parquet file that can hold images, and whether each surely does.

    Images are bytes, which may be anything else too, or ``{bytes, path}``, as the Hub's library writes them.

    Raises:
        DataError: The file can't be read.
    """
    import pyarrow as pa

    found = {}
    for column in opened_parquet(path).schema_arrow:
        surely = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
        if surely or str(column.type) in _BYTES:
            found[column.name] = surely
    return found


def parquet_table(path: Path) -> Table:
    """Open a parquet file as a table.

    Raises:
        DataError: It can't be read, now or while rows are read.
    """
    file = opened_parquet(path)
    names = list(file.schema_arrow.names)
    classes = _class_names(file.schema_arrow)

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=_BATCH):
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, [_named(cell, classes.get(name)) for name, cell in zip(names, cells, strict=True)]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged after row {number:,}: {error}.") from None

    return Table(names, rows())


def opened_parquet(path: Path) -> Any:
    """Open a parquet file; raise DataError where it can't be read."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as parquet: {error}.") from None


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names that the Hub's library notes in a file for its columns of numbers."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _named(cell: Any, names: list[str] | None) -> Any:
    return names[cell] if names and isinstance(cell, int) and 0 <= cell < len(names) else cell
