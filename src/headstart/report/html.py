"""From a run folder to one self-contained page: no network, no script, printable, light and dark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.contracts import FEW_TO_CHOOSE_BY, UInt8Image
from headstart.data.copies import told
from headstart.errors import RunError
from headstart.report import charts
from headstart.report.classes import classes
from headstart.report.confusions import confusions
from headstart.report.coverage import coverage, thresholds
from headstart.report.exports import exports_in
from headstart.report.learning import learning_curves
from headstart.report.mistakes import MISTAKES_SHOWN, Thumbnails, data_uri, most_confident
from headstart.report.page import render
from headstart.report.private import links
from headstart.report.robustness import robustness
from headstart.report.saliency import looks
from headstart.runs.predictions import PredictionRow
from headstart.runs.records import TrainingFacts
from headstart.runs.run import Run
from headstart.tasks.metrics import balanced_accuracy, is_uneven, shown_in
from headstart.wording import FINE_TUNING_GAIN


def write_report(run: Run, dataset_thumbnails: Thumbnails, fed: Sequence[tuple[str, UInt8Image]] = ()) -> Path:
    """Write the page of an evaluated run, whole or not at all.

    Args:
        run: A run that is trained and measured.
        dataset_thumbnails: From an image's row in the test split to its pixels, shape (height, width, 3); called for
            the images on the page only.
        fed: Training images as the network sees them, with their classes; may be empty.

    Raises:
        RunError: A file is missing or damaged.
        WriteError: The page can't be written.
    """
    metrics, environment, predictions = run.metrics(), run.environment(), run.predictions()
    test, facts = metrics.test, metrics.training
    assert test is not None, "Run.metrics refuses figures without those of the test split"
    assert facts is not None, "and those without facts about the training"
    openings, saliency = environment.test_openings, run.saliency()
    # Openings logged before the weights were tell nothing of them.
    opened_for = {opening.weights_sha256 for opening in openings}
    supports = [figures["support"] for figures in test.per_class.values()]
    mistakes = most_confident(predictions, dataset_thumbnails, count=MISTAKES_SHOWN)
    page = render(
        "report.html.jinja",
        name=run.name,
        noun="test image",
        place="row",
        where="the test split",
        link=links(run.path, _data_of(run)),
        fed=[(label, data_uri(pixels)) for label, pixels in fed],
        exports=exports_in(run),
        metrics=metrics,
        facts=facts,
        test=test,
        val=metrics.val,
        environment=environment,
        recipe=run.recipe_text(),
        openings=openings,
        same_weights=len(opened_for) == 1 and None not in opened_for,
        curves=_learning(run, facts),
        confusion=confusions(test.confusion_matrix, test.class_names, predictions, dataset_thumbnails),
        classes=classes(test),
        reliability=charts.reliability_chart(test.reliability, test.reliability_calibrated),
        coverage=coverage(predictions),
        abstention=thresholds(metrics.abstention),
        novelty=metrics.novelty,
        mistakes=mistakes,
        mistakes_in_all=sum(p.label != p.predicted for p in predictions),
        saliency=saliency,
        looks=looks(saliency, mistakes),
        robustness=robustness(run),
        splits=_splits(run, test.class_names, predictions),
        copies=told(environment.data.copies) if environment.data and environment.data.copies else [],
        few=FEW_TO_CHOOSE_BY,
        gain=FINE_TUNING_GAIN,
        shown=shown_in("page"),
        uneven=is_uneven(test.per_class),
        balanced_accuracy=balanced_accuracy(test.per_class),
        smallest=min(supports),
        largest=max(supports),
        most_unfolded=charts.MOST_CLASSES_LABELLED,
    )
    return run.write_report(page)


def _learning(run: Run, facts: TrainingFacts) -> dict[str, Any] | None:
    """Return the curves of training and the epoch that was kept, or None when there were no epochs."""
    history = run.history()
    curves = learning_curves(history, facts.best_epoch)
    # Epochs of a probe come before any fine-tuning.
    tuned = facts.train_images_per_second > 0
    return curves and curves | {
        "history": history,
        "best": facts.best_epoch,
        "kept": next((row for row in history if row.epoch == facts.best_epoch), None),
        "before": facts.probe_val_accuracy if tuned else None,
    }


def _data_of(run: Run) -> str:
    content = run.recipe_content().get("data")
    return str(content.get("name", "")) if isinstance(content, dict) else ""


def _splits(run: Run, names: list[str], predictions: Sequence[PredictionRow]) -> dict[str, Any]:
    """Return the images of each class in each split, how many test images occur in another split, and the hash."""
    manifest = run.manifest()
    counts = {name: {"train": 0, "val": 0, "test": 0} for name in names}
    for row in manifest.rows:
        if row.label not in counts:
            raise RunError(f"The split manifest in {run.path} knows a class '{row.label}' that the figures do not.")
        counts[row.label][row.split] += 1
    totals = {split: sum(count[split] for count in counts.values()) for split in ("train", "val", "test")}
    others = {row.sha256 for row in manifest.rows if row.split != "test"}
    leaked = sum(row.split == "test" and row.sha256 in others for row in manifest.rows)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for image in predictions:
        right[image.sha256 in others].append(image.label == image.predicted)
    accuracy = {
        name: sum(hits) / len(hits) if hits else None
        for name, hits in zip(("copied", "new"), right.values(), strict=True)
    }
    return {"counts": counts, "totals": totals, "leaked": leaked, "accuracy": accuracy, "sha256": manifest.sha256}
