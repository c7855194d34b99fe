"""Predictions as a file that is written row by row, and continued where an earlier command was stopped.

While a file is incomplete, a hidden ``.NAME.unfinished`` beside it says which classifier and which options write it.
Parquet can't be continued, so its rows are kept in that place as JSON lines until all are there.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from headstart.bundle.config import CONFIG_FILE, WEIGHTS_FILE
from headstart.bundle.novelty import NOVELTY_FILE
from headstart.contracts import ClassNames, guarded, unguarded
from headstart.errors import InputError, RunError
from headstart.files import alone, csv_text, csv_writer, first_bytes, shown_path, write_json, writing
from headstart.inference.inputs import Named
from headstart.inference.judge import FilePrediction
from headstart.inference.predictor import Predictor
from headstart.runs.predictions import DOUBTS, doubt_cells, prediction_columns
from headstart.wording import counted

FORMATS = (".csv", ".jsonl", ".parquet")
_FLUSHED = 64
"""Rows after which all that was written is handed to the system."""
_ROWS_IN_GROUP = 10_000


@dataclass(frozen=True)
class Written:
    """What became of a file of predictions.

    Attributes:
        rows: Rows in the file.
        found_before: Rows of them that an earlier command had written.
        errors: Rows that have an error instead of a prediction.
    """

    rows: int
    found_before: int
    errors: int


class PredictionFile:
    """A file of predictions that is new, or that an earlier command left unfinished."""

    def __init__(self, path: Path, model: Path, class_names: ClassNames, *, top: int | None) -> None:
        """Check that the place can be used; nothing is written.

        Args:
            path: Its ending says which format it has.
            model: Folder of the classifier.
            class_names: Its classes.
            top: Classes in a row; all of them when None.

        Raises:
            RunError: The format is unknown, or the file is complete, or belongs to another classifier or other options.
        """
        if path.suffix.lower() not in FORMATS:
            raise RunError(f"{path}: predictions are written as {', '.join(FORMATS)}; give --out such an ending.")
        self.path, self.names, self.top = path, list(class_names), top
        self.as_csv = path.suffix.lower() == ".csv"
        self.mark = path.with_name(f".{path.name}.unfinished")
        # Where the rows are while there may be more.
        self.rows_at = path if path.suffix.lower() != ".parquet" else path.with_name(f".{path.name}.rows.jsonl")
        self.identity = {"format": 1, "classifier": _fingerprint(model), "top": top}
        self._check()

    @property
    def columns(self) -> list[str]:
        """Columns of the table: those of a run's ``predictions.csv`` that an image without a label has, and errors."""
        return ["file", *prediction_columns(self.names, top=self.top), "error"]

    def write(self, predictor: Predictor, files: Iterable[Named], advance: Callable[[int], None]) -> Written:
        """Write a row for every file, in order, after those that are there already.

        Args:
            predictor: The classifier.
            files: All files, those of an earlier command included.
            advance: Told the number of finished rows.

        Raises:
            InputError: There is no file.
            RunError: Another command writes the file, or the rows that are there are damaged or those of other files.
            WriteError: A file can't be written.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")

        def refuse() -> None:
            raise RunError(f"Another command writes {self.path}. Wait for it, or give another --out.") from None

        with writing(self.path):
            lock.touch()  # in a folder that is there
            with alone(lock, waiting=refuse):
                try:
                    self._check()  # once more, since another command may have finished it meanwhile
                    return self._write(predictor, iter(files), advance)
                finally:
                    if not self.mark.exists():
                        with suppress(OSError):  # Windows keeps files that are open
                            lock.unlink()

    def _write(self, predictor: Predictor, files: Iterator[Named], advance: Callable[[int], None]) -> Written:
        before, errors = self._skip(files, advance)
        first = next(files, None)
        if first is None and not before:
            raise InputError("There is no image to classify. Name image files, or folders that hold some.")
        write_json(self.mark, self.identity)
        rows = before
        # The rows of a parquet file may be left of one that the user removed.
        with self.rows_at.open("a" if before else "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            put = self._writer(file, empty=not before)
            for path, found in predicted(predictor, chain([] if first is None else [first], files)):
                put(shown_path(str(path)), found)
                rows, errors = rows + 1, errors + isinstance(found, str)
                if rows % _FLUSHED == 0:
                    file.flush()
                advance(1)
        if self.rows_at != self.path:
            self._to_parquet()
        self.mark.unlink(missing_ok=True)
        return Written(rows, before, errors)

    def _check(self) -> None:
        known: object = None
        with suppress(OSError, ValueError):
            known = json.loads(self.mark.read_text(encoding="utf-8"))
        if (known is None or self.rows_at != self.path) and os.path.lexists(self.path):
            raise RunError(
                f"{self.path} exists and is complete, or is something else. Remove it, or give another --out."
            )
        if known is not None and known != self.identity:
            raise RunError(
                f"{self.path} was begun with another classifier or another --top. Repeat the command that began it, or "
                f"remove {self.path} and {self.mark} to begin again."
            )

    def _skip(self, files: Iterator[Named], advance: Callable[[int], None]) -> tuple[int, int]:
        """Take the files off that have whole rows already, cut what follows these, and return rows and errors."""
        if not self.mark.is_file() or not self.rows_at.is_file():
            return 0, 0
        head = csv_text([map(guarded, self.columns)]) if self.as_csv else '{"file": '
        start = head.encode("utf-8", "surrogateescape")
        if not start.startswith(first_bytes(self.rows_at, len(start))):
            raise RunError(
                f"{self.rows_at} holds something else than the predictions that were begun there. Move it away, or "
                "give another --out."
            )
        whole, rows, errors = 0, 0, 0
        for name, failed, end in self._present():
            named = next(files, None)
            if named is None or shown_path(str(named.path)) != name:
                other = "no further file is given" if named is None else f"it is {named.path} now"
                raise RunError(
                    f"{self.path} was begun for other files: row {rows + 1} is {name}, but {other}. Give the same "
                    f"files in the same order, or remove {self.path} and {self.mark} to begin again."
                )
            whole, rows, errors = end, rows + 1, errors + failed
            advance(1)
        os.truncate(self.rows_at, whole)
        return rows, errors

    def _present(self) -> Iterator[tuple[str, bool, int]]:
        """Yield file, whether it has an error, and the place where its row ends, for every whole row.

        Raises:
            RunError: Something is wrong before the last row, of which a part may be missing.
        """
        place, last, done, size = 0, b"", 0, self.rows_at.stat().st_size
        with self.rows_at.open("rb") as file:

            def lines() -> Iterator[str]:
                nonlocal place, last
                for last in file:
                    place += len(last)
                    yield last.decode("utf-8", "surrogateescape")

            rows: Iterator[Any] = csv.reader(lines()) if self.as_csv else map(json.loads, lines())
            try:
                if self.as_csv:
                    next(rows, None)
                for row in rows:
                    if self.as_csv and len(row) != len(self.columns):
                        raise ValueError
                    entry = (unguarded(row[0]), bool(row[-1])) if self.as_csv else (row["file"], "error" in row)
                    if not last.endswith(b"\n"):
                        return
                    yield *entry, place
                    done += 1
            except (csv.Error, KeyError, RecursionError, TypeError, ValueError):
                if place < size:
                    raise RunError(
                        f"{self.rows_at} is damaged after {counted(done, 'whole row')}. Remove it and {self.mark} "
                        "to begin again, or give another --out."
                    ) from None

    def _writer(self, file: TextIO, *, empty: bool) -> Callable[[str, FilePrediction | str], object]:
        """Return what writes the row of a file."""
        if not self.as_csv:
            return lambda name, found: file.write(json.dumps(self._record(name, found)) + "\n")
        writer = csv_writer(file)
        if empty:
            writer.writerow([guarded(column) for column in self.columns])
        return lambda name, found: writer.writerow(self._cells(name, found))

    def _cells(self, name: str, found: FilePrediction | str) -> list[str]:
        if isinstance(found, str):
            return [guarded(name), *[""] * (len(self.columns) - 2), guarded(found)]
        doubts = doubt_cells(found.unsure, found.unfamiliar, found.novelty)
        if self.top is None:
            by_name = dict(found.top)
            shown = [f"{by_name[name]:.6f}" for name in self.names]
        else:
            shown = [cell for label, p in found.top[1 : self.top] for cell in (guarded(label), f"{p:.6f}")]
            shown += [""] * (2 * (self.top - 1) - len(shown))
        return [guarded(name), guarded(found.label), f"{found.probability:.6f}", *shown, *doubts, ""]

    def _record(self, name: str, found: FilePrediction | str) -> dict[str, Any]:
        if isinstance(found, str):
            return {"file": name, "error": found}
        doubts = {key: value for key in DOUBTS if (value := getattr(found, key)) is not None}
        chosen = found.top if self.top is None else found.top[: self.top]
        shown = {label: round(probability, 6) for label, probability in chosen}
        record = {"file": name, "predicted": found.label, "probability": round(found.probability, 6), **doubts}
        return record | {"probabilities": shown}

    def _to_parquet(self) -> None:
        """Write the rows that are there as parquet, a group at a time, and remove them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Every other column is a number: a probability, or how unlike the training images an image is.
        places = range(2, (self.top or 1) + 1)
        words = ("file", "predicted", "error", *(f"top_{place}" for place in places))
        kinds = dict.fromkeys(words, pa.string()) | dict.fromkeys(("unsure", "unfamiliar"), pa.bool_())
        schema = pa.schema([(column, kinds.get(column, pa.float32())) for column in self.columns])
        beside = self.path.with_name(f".{self.path.name}.tmp")
        with self.rows_at.open(encoding="utf-8") as file, pq.ParquetWriter(beside, schema) as writer:
            group: list[dict[str, Any]] = []
            for line in file:
                row = json.loads(line)
                shares = list(row.pop("probabilities", {}).items())
                row["file"] = row["file"].encode("utf-8", "backslashreplace").decode()
                row |= {f"p_{name}": share for name, share in shares if self.top is None}
                for i, (label, share) in zip(places, shares[1:], strict=False):
                    row |= {f"top_{i}": label, f"top_{i}_probability": share}
                group.append(row)
                if len(group) == _ROWS_IN_GROUP:
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    group = []
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        beside.replace(self.path)
        self.rows_at.unlink()


def predicted(predictor: Predictor, files: Iterable[Named]) -> Iterator[tuple[Path, FilePrediction | str]]:
    """Yield each file with its prediction, or with the reason why there is none."""
    unsearched: dict[Path, str] = {}

    def paths() -> Iterator[Path]:
        for named in files:
            if named.error is not None:
                unsearched[named.path] = named.error
            yield named.path

    for path, found in predictor.predict_files(paths()):
        yield path, unsearched.get(path, found)


def _fingerprint(model: Path) -> str:
    """Return the SHA-256 of the files that decide what a classifier predicts."""
    digest = hashlib.sha256()
    folder = model if (model / CONFIG_FILE).is_file() else model / "model"
    for name in (CONFIG_FILE, WEIGHTS_FILE, NOVELTY_FILE):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()
