"""A run: the one object that knows the files of a run's folder, and reads and writes each of them."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from headstart.contracts import EpochRecord
from headstart.data.former import Former
from headstart.data.ledger import Ledger, LedgerRow, read_ledger
from headstart.data.splits import Manifest, read_manifest
from headstart.errors import DataError, RecipeError, RunError
from headstart.files import csv_text, parse_json, read_bounded, reading, write_atomically, write_json
from headstart.recipe.read import read_yaml
from headstart.recipe.schema import Recipe, dump_recipe, load_recipe
from headstart.runs.predictions import PredictionRow, TestPredictions, parse_predictions
from headstart.runs.records import (
    Corruptions,
    Environment,
    Metrics,
    Opening,
    Saliency,
    Surroundings,
    TrainingFacts,
)
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.read import read_record, read_split
from headstart.wording import typed

_T = TypeVar("_T")
_MAX_BYTES = 500_000_000
"""Largest size of a file that is read whole: predictions of a million images."""
_LARGEST = 2**53
"""No figure of an epoch comes near this."""
_EPOCH_COLUMNS = [field.name for field in fields(EpochRecord)]


class _Identified(Protocol):
    """A data set as far as its identity goes."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Every reader raises RunError where its file is missing or damaged, and every writer WriteError where it can't be
    written; a file is there whole or not at all.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def model(self) -> Path:
        """Folder of the trained classifier."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints and of what frozen stages computed."""
        return self.path / "checkpoints"

    @property
    def is_started(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "recipe.yaml").is_file()

    @property
    def is_trained(self) -> bool:
        """Whether training is complete."""
        return (self.path / "training.json").is_file() and self.model.is_dir()

    @property
    def is_validated(self) -> bool:
        """Whether the run has been measured on validation alone."""
        return (self.path / "validation.json").is_file()

    @property
    def is_measured(self) -> bool:
        """Whether the run has been measured on the test split."""
        return all((self.path / name).is_file() for name in ("metrics.json", "predictions.csv"))

    @property
    def is_complete(self) -> bool:
        """Whether the run is trained, measured and reported."""
        return self.is_trained and self.is_measured and (self.path / "report.html").is_file()

    def recipe(self) -> Recipe:
        """Return the resolved recipe."""
        self._require("recipe.yaml", "Give the --out folder of a training.")
        try:
            return load_recipe(str(self.path / "recipe.yaml"))
        except RecipeError as error:
            raise RunError(f"{self.path / 'recipe.yaml'} can't be used by this version of headstart. {error}") from None

    def recipe_text(self) -> str:
        """Return the resolved recipe as it stands in the file."""
        return self._text("recipe.yaml")

    def recipe_content(self) -> dict[str, Any]:
        """Return the keys and values of the recipe file, whether or not this version knows them."""
        try:
            return read_yaml(self._text("recipe.yaml").encode(), str(self.path / "recipe.yaml"))
        except RecipeError as error:
            raise RunError(f"{error} Restore it.") from None

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe; with it the folder counts as a run."""
        self._write("recipe.yaml", dump_recipe(recipe))

    @property
    def has_manifest(self) -> bool:
        """Whether the split has been written."""
        return (self.path / "split_manifest.csv").is_file()

    def manifest(self) -> Manifest:
        """Return the split and the label of every image."""
        return read_manifest(self.path / "split_manifest.csv")

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the split and the label of every image."""
        manifest.write(self.path / "split_manifest.csv")

    def ledger_rows(self) -> Iterator[LedgerRow]:
        """Yield what became of every file."""
        try:
            yield from read_ledger(self.path / "files.csv")
        except (OSError, ValueError) as error:
            raise self._damaged("files.csv", str(error)) from None

    def write_ledger(self, ledger: Ledger) -> None:
        """Write what became of every file."""
        ledger.write(self.path / "files.csv")

    def former(self) -> Former | None:
        """Return where the run has its images; None where they lie in arrays, and before the split is written."""
        begun = self.environment().data
        if begun is None or begun.files is None or not self.has_manifest:
            return None
        drawn = (begun.copies or {}).get("drawn", ["test"])
        return self.manifest().former((row.sha256 for row in self.ledger_rows()), test_drawn="test" in drawn)

    def environment(self) -> Environment:
        """Return versions, hardware, hashes and every opening of the test split."""
        return self._read("environment.json", Environment)

    def write_environment(self, environment: Environment) -> None:
        """Write ``environment.json``."""
        self._write_json("environment.json", environment.to_dict())

    def update_environment(self, **facts: Any) -> None:
        """Replace single facts of ``environment.json``; what else it holds stays."""
        self.environment()
        self._write_json("environment.json", self._json("environment.json") | facts)

    def note_resumed(self, process: Surroundings) -> None:
        """Record that another process works on the run."""
        known = self._list_in_environment("resumed")
        self.update_environment(resumed=[*known, asdict(process)])

    def note_opening(self, opening: Opening) -> None:
        """Record an opening of the test split, before its first label is read."""
        known = self._list_in_environment("test_openings")
        self.update_environment(test_openings=[*known, asdict(opening)])

    def check_same_data(self, dataset: _Identified) -> None:
        """Check that the run started from this data set, before resuming or reusing it.

        Raises:
            DataError: It started from another one.
        """
        begun = self.environment().data
        if begun is not None and begun.sha256 != dataset.sha256:
            raise DataError(
                f"{self.path} started from other images or labels than {dataset.name} holds now: SHA-256 "
                f"{begun.sha256[:12]}... then, {dataset.sha256[:12]}... now. Restore the data, or give another folder "
                "with --out."
            )

    def history(self) -> list[EpochRecord]:
        """Return one record per epoch; none where nothing was trained in epochs."""
        if not (self.path / "history.csv").is_file():
            return []
        try:
            records = [
                read_record(EpochRecord, {key: cell for key, cell in row.items() if key in _EPOCH_COLUMNS and cell})
                for row in csv.DictReader(io.StringIO(self._text("history.csv")))
            ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise self._damaged("history.csv", f"{type(error).__name__}: {error}") from None
        if any(not abs(value or 0) < _LARGEST for record in records for value in asdict(record).values()):
            raise self._damaged("history.csv", "it holds a number that is not finite, or absurd")
        return records

    def write_history(self, records: Sequence[EpochRecord]) -> None:
        """Write all records, replacing what was there; a run without epochs has the heading alone."""
        rows = [[_short(getattr(record, name)) for name in _EPOCH_COLUMNS] for record in records]
        self._write("history.csv", csv_text([_EPOCH_COLUMNS, *rows]))

    def training(self) -> TrainingFacts:
        """Return facts about the finished training."""
        return self._read("training.json", TrainingFacts)

    def write_training(self, facts: TrainingFacts) -> None:
        """Write facts about the training, which is complete then."""
        self._write_json("training.json", facts.to_dict())

    def metrics(self) -> Metrics:
        """Return the figures on validation and on the test split."""
        content = self._json("metrics.json")
        if not isinstance(content.get("test"), dict):
            raise RunError(
                f"{self.path / 'metrics.json'} has no test figures. Get them with `{typed('evaluate', self.path)}`."
            )
        return self._parsed("metrics.json", content, Metrics.from_dict)

    def write_metrics(self, metrics: Metrics) -> None:
        """Write the figures on validation and on the test split."""
        self._write_json("metrics.json", metrics.to_dict())

    def validation(self) -> SplitMetrics:
        """Return the figures on validation of a run whose test split is sealed."""
        return self._parsed("validation.json", self._json("validation.json"), read_split)

    def write_validation(self, figures: SplitMetrics) -> None:
        """Write the figures on validation."""
        self._write_json("validation.json", figures.to_dict())

    def predictions(self) -> list[PredictionRow]:
        """Return the prediction for each test image, in the test split's own order."""
        try:
            return parse_predictions(self._text("predictions.csv"))
        except ValueError as error:
            raise self._damaged("predictions.csv", str(error)) from None

    def write_predictions(self, predictions: TestPredictions) -> None:
        """Write ``predictions.csv`` and, where there are many classes, ``predictions.npz``."""
        if (probabilities := predictions.to_npz()) is not None:
            self._write("predictions.npz", probabilities)
        self._write("predictions.csv", predictions.to_csv())

    def corruptions(self) -> Corruptions | None:
        """Return the accuracy on corrupted images; None where that was not measured."""
        return self._read("corruptions.json", Corruptions) if (self.path / "corruptions.json").is_file() else None

    def write_corruptions(self, figures: Mapping[str, Any], sheet: bytes) -> None:
        """Write the accuracy on corrupted images, and a PNG that shows the corruptions."""
        self._write_json("corruptions.json", figures)
        self._write("corruptions.png", sheet)

    @property
    def corruption_sheet(self) -> Path:
        """PNG that shows the corruptions: a row for each corruption, a column for each severity."""
        return self.path / "corruptions.png"

    def saliency(self) -> Saliency | None:
        """Return the class-activation maps of mistakes; None where none was explained."""
        return self._read("saliency.json", Saliency) if (self.path / "saliency.json").is_file() else None

    def write_saliency(self, content: Mapping[str, Any]) -> None:
        """Write the class-activation maps of mistakes."""
        self._write_json("saliency.json", content)

    def write_report(self, page: str) -> Path:
        """Write the page and return its path."""
        self._write("report.html", page)
        return self.path / "report.html"

    def drop_checkpoints(self) -> None:
        """Remove what only an unfinished training needs: most of a run's bytes."""
        for file in self.checkpoints.glob("*"):
            # What was not written by training stays, and what can't be removed does no harm.
            with suppress(OSError):
                file.unlink()

    def _require(self, name: str, remedy: str) -> None:
        if not (self.path / name).is_file():
            raise RunError(f"{self.path} holds no run: there is no {name} in it. {remedy}")

    def _text(self, name: str) -> str:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                f"There is no {name} in {self.path}. Finish the run with `{typed('train', '--resume', self.path)}`, or "
                f"measure a trained one with `{typed('evaluate', self.path)}`."
            )
        with reading(path, RunError, "Restore it, or train again."):
            # As it stands: a class name may hold what Python takes for the end of a line.
            return read_bounded(path, at_most=_MAX_BYTES).decode("utf-8")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = parse_json(self._text(name))
        except ValueError as error:
            raise self._damaged(name, f"it is not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise self._damaged(name, "it must hold a JSON object")
        return content

    def _read(self, name: str, kind: type[_T]) -> _T:
        return self._parsed(name, self._json(name), lambda content: read_record(kind, content))

    def _parsed(self, name: str, content: dict[str, Any], parse: Callable[[dict[str, Any]], _T]) -> _T:
        try:
            return parse(content)
        except ValueError as error:
            raise self._damaged(name, str(error)) from None

    def _list_in_environment(self, key: str) -> list[Any]:
        self.environment()
        return list(self._json("environment.json").get(key, []))

    def _damaged(self, name: str, what: str) -> RunError:
        path = self.path / name
        return RunError(
            f"{path} is damaged: {what}. Restore it, measure the run again with `{typed('evaluate', self.path)}`, or "
            "train again."
        )

    def _write(self, name: str, content: str | bytes) -> None:
        write_atomically(self.path / name, content)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_json(self.path / name, dict(content))


def _short(value: float | None) -> float | str | None:
    return f"{value:.6g}" if isinstance(value, float) else value
