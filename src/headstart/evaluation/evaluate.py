"""From a trained run to its figures: the one place that opens the test split."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.bundle import update_bundle
from headstart.bundle.config import WEIGHTS_FILE
from headstart.contracts import ClassNames, EvalResult, Predictions, listed
from headstart.data.dataset import Dataset
from headstart.data.splits import Manifest, read_manifest
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.errors import DataError, HeadstartError, RunError
from headstart.files import write_atomically, write_json
from headstart.inference.predictor import Predictor, Progress, load, within
from headstart.tasks.single_label import SINGLE_LABEL

TRAINING_FACTS = (
    "train_seconds",
    "train_images_per_second",
    "backbone",
    "device",
    "precision",
    "seed",
    "peak_rss_mb",
    "best_epoch",
)
"""What ``training.json`` must tell, because ``metrics.json`` repeats it (and whatever else it tells)."""


def evaluate_run(
    run: Path, dataset: Dataset, *, command: str, device: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Calibrate a run's classifier on validation, measure it on the test split, and write both down.

    Everything that can be refused is refused before the test split is opened, and the opening is logged in
    ``environment.json`` before the first test label is read. Writes the temperature and the figures into
    ``RUN/model``, and ``RUN/metrics.json`` and ``RUN/predictions.csv``; each file whole or not at all.

    Args:
        run: A folder that training has finished.
        dataset: The data set that the run was trained on.
        command: What the user typed; logged with the opening of the test split.
        device: Name of a torch device; as for ``load`` when None.
        progress: Told about images as they pass through the classifier, of validation and test together.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RunError: The run folder is incomplete or can't be written.
        DataError: The data set is not the one of the split manifest, or its classes are not the classifier's.
        BundleError: The saved classifier is damaged.
        HeadstartError: The classifier's outputs are not finite.
    """
    facts = _read_json(run / "training.json", needs=TRAINING_FACTS)
    _read_json(run / "environment.json")
    predictor = load(run / "model", device=device)
    manifest = checked_manifest(run, dataset, predictor)
    earlier = _read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}

    val = manifest.select(dataset.train, "val")
    in_all = len(val) + len(dataset.sealed_test)
    val_logits = finite_logits(predictor, val, within(progress, done_before=0, in_all=in_all))
    temperature = SINGLE_LABEL.calibrate(val_logits, val.labels)
    val_result = measure(val_logits, val.labels, split="val", names=val.class_names, temperature=temperature)

    log_test_opening(run, command)
    test = dataset.sealed_test.open()
    test_logits = finite_logits(predictor, test, within(progress, done_before=len(val), in_all=in_all))
    test_result = measure(test_logits, test.labels, split="test", names=test.class_names, temperature=temperature)

    result = {
        "val": val_result.metrics,
        "test": test_result.metrics,
        "temperature": temperature,
        "straddling": manifest.straddling(),
        **facts,
        # Known only when the whole training command is over; whoever runs that command fills them in.
        "total_seconds": earlier.get("total_seconds"),
        "peak_rss_mb": earlier.get("peak_rss_mb", facts["peak_rss_mb"]),
        # Measured by another command, of the same classifier.
        **({"corruptions": earlier["corruptions"]} if "corruptions" in earlier else {}),
    }
    table = predictions_table(test_result, rows=test.rows, hashes=dataset.sealed_test.image_hashes())
    try:
        update_bundle(run / "model", temperature=temperature, metrics=_scores(val_result, test_result))
        write_atomically(run / "predictions.csv", table)
        write_json(run / "metrics.json", result)
    except OSError as error:
        raise RunError(f"{run} can't be written: {error.strerror}. Check space and permissions.") from None
    return result


def measure(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    split: Literal["val", "test"],
    names: ClassNames,
    temperature: float,
) -> EvalResult:
    """Measure a classifier on one split.

    Args:
        logits: Shape (n, classes), uncalibrated.
        labels: Shape (n,).
        split: Which split this is.
        names: Of the classes, in the order of the columns.
        temperature: Divides the logits.
    """
    calibrated = SINGLE_LABEL.probabilities(logits, temperature=temperature)
    figures = SINGLE_LABEL.measure(logits, labels, names=names.names, temperature=temperature)
    return EvalResult(split, labels, Predictions(calibrated.astype(np.float32), names), figures.to_dict())


def predictions_table(result: EvalResult, *, rows: NDArray[np.int64], hashes: Sequence[str]) -> str:
    """Return ``predictions.csv``: a line for each image, with classes by name and probabilities as given out.

    Args:
        result: Labels and calibrated probabilities.
        rows: Shape (n,), each image's place in the data set's own order.
        hashes: SHA-256 of each image, in the same order.
    """
    names, predictions = result.predictions.class_names, result.predictions
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "sha256", "label", "predicted", "probability", *(f"p_{name}" for name in names)])
    lines = zip(rows, hashes, result.labels, predictions.indices, predictions.probabilities, strict=True)
    for row, sha256, label, predicted, probabilities in lines:
        shares = [f"{p:.6f}" for p in probabilities]
        writer.writerow([int(row), sha256, names[int(label)], names[int(predicted)], shares[predicted], *shares])
    return text.getvalue()


def log_test_opening(run: Path, command: str) -> None:
    """Append time (UTC), command and SHA-256 of the classifier's weights to ``test_openings`` of ``environment.json``.

    By the weights a reader sees whether the test split was opened for one classifier or for several.

    Raises:
        RunError: The file is missing, damaged or can't be written; then the test split must stay closed.
    """
    environment = run / "environment.json"
    content = _read_json(environment)
    opening = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "weights_sha256": hashlib.sha256((run / "model" / WEIGHTS_FILE).read_bytes()).hexdigest(),
    }
    content["test_openings"] = [*content.get("test_openings", []), opening]
    try:
        write_json(environment, content)
    except OSError as error:
        raise RunError(
            f"{environment} can't be written ({error.strerror}), so an opening of the test split can't be "
            "logged, and it stays closed. Check space and permissions."
        ) from None


def checked_manifest(run: Path, dataset: Dataset, predictor: Predictor) -> Manifest:
    """Return the run's split manifest, once classifier, manifest and data are known to belong together.

    Raises:
        DataError: They do not.
    """
    manifest = read_manifest(run / "split_manifest.csv")
    if predictor.bundle.manifest_sha256 != manifest.sha256:
        raise DataError(
            f"{run / 'split_manifest.csv'} (SHA-256 {manifest.sha256[:12]}) is not the split that "
            f"{run / 'model'} was trained on ({predictor.bundle.manifest_sha256[:12]}). "
            "Restore the run's own manifest, or train again."
        )
    if predictor.class_names != dataset.class_names:
        raise DataError(
            f"{run / 'model'} knows the classes {listed(predictor.class_names)}, but data set "
            f"'{dataset.name}' has {listed(dataset.class_names)}. "
            "Evaluate on the data set that the run was trained on."
        )
    manifest.check(dataset)
    return manifest


def finite_logits(predictor: Predictor, split: Subset, progress: Progress | None = None) -> NDArray[np.float32]:
    """Return the classifier's outputs for a split, shape (n, classes).

    Raises:
        HeadstartError: Some are not finite.
    """
    logits = predictor.logits(working_copy(split, predictor.preprocess), progress=progress)
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise HeadstartError(
            f"The classifier's outputs are not finite for {len(bad)} of {len(split)} {split.name} images, "
            f"first for row {split.rows[bad[0]]}. Train again, with a lower learning rate or in fp32."
        )
    return logits


def _read_json(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(
            f"There is no {path.name} in {path.parent}, so this is not a run that training has finished. "
            f"Give the folder of a finished run, or finish it with `headstart train --resume {path.parent}`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read as JSON: {error}. Restore it, or train again.") from None
    missing = [key for key in needs if key not in content] if isinstance(content, dict) else list(needs)
    if missing or not isinstance(content, dict):
        raise RunError(f"{path} lacks {', '.join(missing) or 'a JSON object'}. Restore it, or train again.")
    return content


def _scores(*results: EvalResult) -> dict[str, Any]:
    """Return what the model card shows: the figures of each split but for its matrix and its bins."""
    left_out = {"confusion_matrix", "reliability", "reliability_calibrated"}
    return {
        result.split: {key: value for key, value in result.metrics.items() if key not in left_out} for result in results
    }
