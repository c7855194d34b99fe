"""The columns of predictions, and the two files that hold those of a run for the test split.

``predictions.csv`` has a row per image: its row in the data set, its path where images lie in files, SHA-256 and label,
then ``prediction_columns``, as in the file of ``headstart predict --out``. Up to 50 classes these hold
all probabilities. Beyond that they hold the five most probable classes, and ``predictions.npz`` has all probabilities:
``numpy.load(path)["probabilities"]`` has shape (n, classes), float16 with four decimals, in the order of ``"classes"``.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, Predictions, guarded, unguarded
from headstart.files import csv_text

COLUMNS = ("row", "sha256", "label", "predicted", "probability")
"""Columns of every ``predictions.csv``."""
MOST_CLASSES_IN_COLUMNS = 50
TOP = 5
"""Classes in the CSV where not all have a column."""
_STEPS = 10_000
"""Probabilities in the compressed file have four decimals, so that it can be compressed."""
DOUBTS = ("unsure", "unfamiliar", "novelty")
"""Columns that are empty where a classifier can't have such a doubt."""
_BLOCK = 4096
"""Images whose probabilities are rounded at a time."""


def prediction_columns(names: Iterable[str], *, top: int | None) -> list[str]:
    """Return the columns of what is predicted for an image, in the files of runs and of ``headstart predict --out``.

    Args:
        names: The classes.
        top: Classes in a row; all of them when None.
    """
    if top is None:
        shown = [f"p_{name}" for name in names]
    else:
        shown = [f"top_{place}{part}" for place in range(2, top + 1) for part in ("", "_probability")]
    return ["predicted", "probability", *shown, *DOUBTS]


def doubt_cells(unsure: bool | None, unfamiliar: bool | None, novelty: float | None) -> list[str]:
    """Return the last three of these columns; a doubt that the classifier can't have is empty."""
    marks = ["" if mark is None else str(mark).lower() for mark in (unsure, unfamiliar)]
    return [*marks, "" if novelty is None else f"{novelty:.6g}"]


@dataclass(frozen=True)
class PredictionRow:
    """One test image of ``predictions.csv``; classes by name, ``probability`` that of the predicted class."""

    row: int
    sha256: str
    label: str
    predicted: str
    probability: float
    file: str = ""


@dataclass(frozen=True)
class TestPredictions:
    """Predictions for the test split.

    Attributes:
        rows: Place of each image in the data set's own order, shape (n,).
        hashes: SHA-256 of each image.
        labels: True class of each image as an index, shape (n,).
        predictions: Calibrated probabilities, shape (n, classes).
        files: Path of each image's file, relative to the data set's folder; None where images have none.
    """

    __test__ = False  # pytest takes classes of such a name for tests

    rows: NDArray[np.int64]
    hashes: list[str]
    labels: NDArray[np.int64] = field(repr=False)
    predictions: Predictions = field(repr=False)
    files: list[str] | None = field(default=None, repr=False)

    @property
    def class_names(self) -> ClassNames:
        """Names of the classes, in the order of the outputs."""
        return self.predictions.class_names

    def to_csv(self) -> str:
        """Return ``predictions.csv``."""
        return csv_text(self._lines())

    def _lines(self) -> Iterator[list[Any]]:
        names = [guarded(name) for name in self.class_names]
        in_columns = len(names) <= MOST_CLASSES_IN_COLUMNS
        columns = prediction_columns(self.class_names, top=None if in_columns else TOP)
        if not in_columns:
            columns.insert(2, "label_probability")
        yield ["row", *["file"] * bool(self.files), "sha256", "label", *columns]
        indices, probabilities = self.predictions.indices, self.predictions.probabilities
        doubts = self._doubts()
        for i, predicted in enumerate(indices.tolist()):
            shares = probabilities[i]
            place = [int(self.rows[i]), *([guarded(self.files[i])] if self.files else [])]
            cells = [*place, self.hashes[i], names[int(self.labels[i])], names[predicted]]
            if in_columns:
                texts = [f"{p:.6f}" for p in shares.tolist()]
                cells += [texts[predicted], *texts]
            else:
                cells += [f"{shares[predicted]:.6f}", *self._top_cells(i, predicted, names)]
            yield [*cells, *doubt_cells(*doubts[i])]

    def to_npz(self) -> bytes | None:
        """Return ``predictions.npz``, or None where the CSV has a column for every class."""
        if len(self.class_names) <= MOST_CLASSES_IN_COLUMNS:
            return None
        whole = self.predictions.probabilities
        rounded = np.empty(whole.shape, np.float16)
        for start in range(0, len(whole), _BLOCK):
            rounded[start : start + _BLOCK] = np.rint(whole[start : start + _BLOCK] * _STEPS) / _STEPS
        content = io.BytesIO()
        names = np.array(self.class_names.names)
        np.savez_compressed(content, probabilities=rounded, row=self.rows, classes=names)
        return content.getvalue()

    def _doubts(self) -> list[tuple[Any, ...]]:
        found = (self.predictions.unsure, self.predictions.unfamiliar, self.predictions.novelty)
        missing = [None] * len(self.predictions)
        return list(zip(*(missing if column is None else column.tolist() for column in found), strict=True))

    def _top_cells(self, i: int, predicted: int, names: list[str]) -> Iterator[str]:
        shares = self.predictions.probabilities[i]
        yield f"{shares[self.labels[i]]:.6f}"
        best = np.argpartition(-shares, TOP)[:TOP]
        others = [index for index in best[np.argsort(-shares[best], kind="stable")].tolist() if index != predicted]
        for index in others[: TOP - 1]:
            yield names[index]
            yield f"{shares[index]:.6f}"


def parse_predictions(text: str) -> list[PredictionRow]:
    """Return the rows of the content of ``predictions.csv``.

    Raises:
        ValueError: A column is missing, or a value is none of its kind; the message names the line.
    """
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[PredictionRow] = []
    try:
        if missing := [name for name in COLUMNS if name not in (lines.fieldnames or [])]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        rows += map(_row, lines)
    except (TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"line {lines.line_num}: {error}") from None
    if not rows:
        raise ValueError("it has no rows")
    return rows


def _row(line: dict[str, str]) -> PredictionRow:
    cells = [line[name] for name in COLUMNS]
    if any(not cell for cell in cells):
        raise ValueError("a value is missing")
    probability = float(cells[4])
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability must be from 0 to 1, not {cells[4]}")
    names = [unguarded(cell) for cell in (cells[2], cells[3], line.get("file") or "")]
    return PredictionRow(int(cells[0]), cells[1], names[0], names[1], probability, names[2])
