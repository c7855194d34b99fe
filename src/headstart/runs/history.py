"""``history.csv``: one row an epoch."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from headstart.contracts import EpochRecord
from headstart.files import write_atomically


def write_history(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write all records, replacing what was there; a run without epochs has the heading alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _short(value) for key, value in asdict(record).items()} for record in records)
    write_atomically(path, text.getvalue())


def _short(value: float) -> float | str:
    return f"{value:.6g}" if isinstance(value, float) else value
