"""From a run folder to one self-contained page: no network, no script, printable, light and dark."""

from pathlib import Path
from typing import Any

import yaml

from headstart.contracts import FEW_TO_CHOOSE_BY
from headstart.data.splits import read_manifest
from headstart.errors import RunError
from headstart.report import charts
from headstart.report.classes import classes
from headstart.report.confusions import confusions
from headstart.report.coverage import coverage
from headstart.report.learning import learning_curves
from headstart.report.mistakes import MISTAKES_SHOWN, Thumbnails, most_confident
from headstart.report.page import render, write_page
from headstart.report.robustness import robustness
from headstart.report.saliency import looks
from headstart.runs.predictions import RunFiles, read_run
from headstart.tasks.metrics import shown_in


def write_report(run: Path, dataset_thumbnails: Thumbnails) -> Path:
    """Write ``RUN/report.html`` from the files of an evaluated run, whole or not at all.

    Args:
        run: A folder with ``metrics.json``, ``predictions.csv``, ``history.csv``, ``recipe.yaml``,
            ``environment.json`` and ``split_manifest.csv``; what ``corruptions.json`` and ``saliency.json`` hold is
            shown where they are present.
        dataset_thumbnails: From an image's row in the test split to its pixels, shape (height, width,
            3); called for the mistakes on the page only.

    Returns:
        The page's path.

    Raises:
        RunError: A file is missing or damaged, or the page can't be written.
    """
    files = read_run(run)
    test = files.metrics["test"]
    openings = files.environment.get("test_openings", [])
    # Openings logged before the weights were tell nothing of them.
    opened_for = {opening.get("weights_sha256") for opening in openings}
    mistakes = most_confident(files.predictions, dataset_thumbnails, count=MISTAKES_SHOWN)
    page = render(
        "report.html.jinja",
        files=files,
        metrics=files.metrics,
        test=test,
        val=files.metrics["val"],
        environment=files.environment,
        openings=openings,
        same_weights=len(opened_for) == 1 and None not in opened_for,
        curves=_learning(files),
        confusion=confusions(test["confusion_matrix"], files.class_names, files.predictions, dataset_thumbnails),
        classes=classes(test),
        reliability=charts.reliability_chart(test["reliability"], test["reliability_calibrated"]),
        coverage=coverage(files.predictions),
        mistakes=mistakes,
        mistakes_in_all=sum(p.label != p.predicted for p in files.predictions),
        looks=looks(run, files.saliency, mistakes),
        robustness=robustness(run, files.corruptions),
        splits=_splits(run, files.class_names),
        few=FEW_TO_CHOOSE_BY,
        shown=shown_in("page"),
    )
    place = run / "report.html"
    write_page(place, page)
    return place


def _learning(files: RunFiles) -> dict[str, Any] | None:
    """Return the curves of training and the epoch that was kept, or None when there were no epochs."""
    best = files.metrics.get("best_epoch")
    curves = learning_curves(files.history, best)
    return curves and curves | {
        "best": best,
        "kept": next((row for row in files.history if row["epoch"] == best), None),
        "before": files.metrics.get("probe_val_accuracy") if yaml.safe_load(files.recipe)["finetune"] else None,
    }


def _splits(run: Path, names: list[str]) -> dict[str, Any]:
    """Return the images of each class in each split, how many test images occur in another split, and the hash."""
    manifest = read_manifest(run / "split_manifest.csv")
    counts = {name: {"train": 0, "val": 0, "test": 0} for name in names}
    for row in manifest.rows:
        if row.label not in counts:
            raise RunError(f"{run / 'split_manifest.csv'} knows a class '{row.label}' that metrics.json does not.")
        counts[row.label][row.split] += 1
    totals = {split: sum(count[split] for count in counts.values()) for split in ("train", "val", "test")}
    others = {row.sha256 for row in manifest.rows if row.split != "test"}
    leaked = sum(row.split == "test" and row.sha256 in others for row in manifest.rows)
    return {"counts": counts, "totals": totals, "leaked": leaked, "sha256": manifest.sha256}
