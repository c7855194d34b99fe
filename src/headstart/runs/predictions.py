"""What a run folder tells the report, read and checked."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import RunError


@dataclass(frozen=True)
class PredictionRow:
    """One test image of ``predictions.csv``; classes by name, ``probability`` that of the predicted class."""

    row: int
    sha256: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class RunFiles:
    """The files of an evaluated run.

    Attributes:
        name: Of the run folder.
        metrics: ``metrics.json``.
        environment: ``environment.json``.
        history: ``history.csv``, a dict of numbers an epoch; empty when nothing was fine-tuned.
        predictions: ``predictions.csv``, in the test split's own order.
        recipe: ``recipe.yaml`` as text.
        corruptions: ``corruptions.json``; None where spoilt images were not measured.
        saliency: ``saliency.json``; None where no mistake was explained.
    """

    name: str
    metrics: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, float]]
    predictions: list[PredictionRow]
    recipe: str
    corruptions: dict[str, Any] | None = None
    saliency: dict[str, Any] | None = None

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of the classifier's outputs."""
        return list(self.metrics["test"]["per_class"])


def read_run(run: Path) -> RunFiles:
    """Read an evaluated run.

    Raises:
        RunError: A file is missing or damaged; the message names it and how to get it.
    """
    metrics = _json(run / "metrics.json")
    if not isinstance(metrics.get("test"), dict) or "per_class" not in metrics["test"]:
        raise RunError(f"{run / 'metrics.json'} has no test figures. Get them with `headstart evaluate {run}`.")
    return RunFiles(
        name=run.resolve().name,
        metrics=metrics,
        environment=_json(run / "environment.json"),
        history=_history(run / "history.csv"),
        predictions=_predictions(run / "predictions.csv"),
        recipe=_text(run / "recipe.yaml"),
        corruptions=_json(run / "corruptions.json") if (run / "corruptions.json").is_file() else None,
        saliency=_json(run / "saliency.json") if (run / "saliency.json").is_file() else None,
    )


def _text(path: Path) -> str:
    if not path.is_file():
        raise RunError(
            f"There is no {path.name} in {path.parent}. A report needs a run that was trained and evaluated: "
            f"`headstart evaluate {path.parent}` writes metrics.json and predictions.csv."
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} can't be read: {error}. Restore it, or train again.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not valid JSON: {error}. Restore it, or evaluate again.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold a JSON object. Restore it, or evaluate again.")
    return content


def _history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(_text(path).splitlines())]
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} holds something that is not a number: {error}. Restore it.") from None


def parse_predictions(text: str) -> list[PredictionRow]:
    """Return the rows of the content of ``predictions.csv``.

    Raises:
        ValueError: A column is missing, or a value is none of its kind.
    """
    try:
        return [
            PredictionRow(
                int(line["row"]), line["sha256"], line["label"], line["predicted"], float(line["probability"])
            )
            for line in csv.DictReader(io.StringIO(text, newline=""))
        ]
    except (KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"a row lacks a value ({error})") from None


def _predictions(path: Path) -> list[PredictionRow]:
    try:
        return parse_predictions(_text(path))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Write it anew with `headstart evaluate {path.parent}`.") from None
