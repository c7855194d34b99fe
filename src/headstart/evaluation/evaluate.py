"""From a trained run to its figures: the one place that opens the test split."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from headstart.bundle.config import WEIGHTS_FILE
from headstart.bundle.folder import update_bundle
from headstart.bundle.schema import Abstention
from headstart.contracts import Predictions, listed
from headstart.data.dataset import Dataset
from headstart.data.splits import Manifest
from headstart.data.subset import Subset
from headstart.errors import DataError, RunError
from headstart.evaluation.novelty import learn_novelty, measure_novelty, reference_images
from headstart.evaluation.outputs import finite_outputs
from headstart.files import file_sha256
from headstart.inference.predictor import Predictor, Progress, load, within
from headstart.runs.predictions import TestPredictions
from headstart.runs.records import Metrics, Opening
from headstart.runs.run import Run
from headstart.tasks.abstention import Judgement, measure_abstention, row_of
from headstart.tasks.confidence import confidence_of
from headstart.tasks.single_label import SINGLE_LABEL


def evaluate_run(
    run: Run,
    dataset: Dataset,
    *,
    command: str,
    abstain: float | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Calibrate a run's classifier on validation, measure it on the test split, and write both down.

    Everything that can be refused is refused before the test split is opened, and the opening is logged before the
    first test label is read. Writes the temperature and the figures into the run's bundle, and its figures and
    predictions into its folder.

    Raises:
        RunError: The run folder is incomplete.
        WriteError: The run folder can't be written.
        DataError: The data set is not the one of the split manifest, or its classes are not the classifier's.
        BundleError: The saved classifier is damaged.
        HeadstartError: The classifier's outputs are not finite.
    """
    facts = run.training()
    run.environment()
    predictor = load(run.model, device=device)
    manifest = checked_manifest(run, dataset, predictor)
    earlier = _earlier(run)

    val = manifest.select(dataset.train, "val")
    reference = reference_images(manifest.select(dataset.train, "train"))
    in_all = len(reference) + len(val) + len(dataset.sealed_test)
    names = val.class_names.names
    novelty, val_logits = learn_novelty(predictor, reference, val, in_all, progress)
    temperature = SINGLE_LABEL.calibrate(val_logits, val.labels)
    val_metrics = SINGLE_LABEL.measure(val_logits, val.labels, names=names, temperature=temperature)

    test = open_test(run, dataset, command)
    done = in_all - len(dataset.sealed_test)
    outputs = finite_outputs(predictor, test, within(progress, done_before=done, in_all=in_all))
    test_metrics = SINGLE_LABEL.measure(outputs.logits, test.labels, names=names, temperature=temperature)
    probabilities = SINGLE_LABEL.probabilities(outputs.logits, temperature=temperature)
    judged_val = _judged(SINGLE_LABEL.probabilities(val_logits, temperature=temperature), val)
    abstention = measure_abstention(abstain, judged_val, _judged(probabilities, test))

    metrics = Metrics(
        val=val_metrics,
        test=test_metrics,
        temperature=temperature,
        straddling=manifest.straddling(),
        # The memory of the whole training command, which is known only when that is over, like its time.
        training=replace(facts, peak_rss_mb=earlier.training.peak_rss_mb) if earlier and earlier.training else facts,
        total_seconds=earlier.total_seconds if earlier else None,
        # Measured by another command, of the same classifier.
        corruptions=earlier.corruptions if earlier else None,
        abstention=abstention,
        novelty=measure_novelty(novelty, len(reference), outputs),
    )
    shipped = row_of(abstention["target"], abstention)
    scores = {"val": val_metrics.headline(), "test": test_metrics.headline()}
    sure, on_val = {key: shipped[key] for key in ("target", "threshold")}, shipped["val"]
    sure_from = Abstention(**sure, answered=on_val["answered"], right=on_val["right"])
    update_bundle(
        run.model,
        temperature=temperature,
        metrics=scores,
        abstention=sure_from,
        novelty=novelty,
        confidence=confidence_of(judged_val.confidence),
    )
    files = [test.source.path(row) for row in test.rows.tolist()] if dataset.ledger else None
    hashes = dataset.sealed_test.image_hashes()
    predictions = Predictions(
        probabilities,
        test.class_names,
        unsure=sure_from.unsure(probabilities),
        novelty=outputs.novelty,
        unfamiliar=None if outputs.novelty is None else outputs.novelty > novelty.threshold,
    )
    run.write_predictions(TestPredictions(test.rows, hashes, test.labels, predictions, files))
    run.write_metrics(metrics)
    return metrics


def open_test(run: Run, dataset: Dataset, command: str) -> Subset:
    """Return the test split, once time (UTC), command and SHA-256 of the weights are in the run's environment.

    By the weights a reader sees whether the test split was opened for one classifier or for several.

    Raises:
        RunError: The file is missing or damaged; then the test split must stay closed.
        WriteError: It can't be written; then too.
    """
    weights = file_sha256(run.model / WEIGHTS_FILE)
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    run.note_opening(Opening(time=time, command=command, weights_sha256=weights))
    return dataset.sealed_test.open()


def checked_manifest(run: Run, dataset: Dataset, predictor: Predictor) -> Manifest:
    """Return the run's split manifest, once classifier, manifest and data are known to belong together.

    Raises:
        DataError: They do not.
    """
    manifest = run.manifest()
    if predictor.artifact.manifest_sha256 != manifest.sha256:
        raise DataError(
            f"The split manifest in {run.path} (SHA-256 {manifest.sha256[:12]}) is not the split that {run.model} was "
            f"trained on ({predictor.artifact.manifest_sha256[:12]}). Restore the run's own manifest, or train again."
        )
    if predictor.class_names != dataset.class_names:
        raise DataError(
            f"{run.model} knows the classes {listed(predictor.class_names)}, but data set "
            f"'{dataset.name}' has {listed(dataset.class_names)}. "
            "Evaluate on the data set that the run was trained on."
        )
    manifest.check(dataset)
    return manifest


def _judged(probabilities: NDArray[np.float32], split: Subset) -> Judgement:
    return Judgement(probabilities.max(axis=1), probabilities.argmax(axis=1) == split.labels)


def _earlier(run: Run) -> Metrics | None:
    """Return the figures of an earlier evaluation; none where they are damaged, since they are measured again here."""
    if not run.is_measured:
        return None
    with suppress(RunError):
        return run.metrics()
    return None
