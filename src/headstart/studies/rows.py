"""What a stage comes to: its variants as trained, the one that validation chose, and the figures worth keeping."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.recipe.schema import Recipe
from headstart.runs.folder import runs_below
from headstart.runs.records import TrainingFacts
from headstart.runs.run import Run
from headstart.studies.plan import ONLY, Stage
from headstart.tasks.metrics import SplitMetrics

_FIGURES = ("accuracy", "accuracy_ci95", "n", "macro_f1", "nll", "ece", "ece_calibrated", "per_class")
_COSTS = ("train_seconds", "train_images_per_second", "device", "precision", "best_epoch")


@dataclass(frozen=True)
class VariantRun:
    """A variant that is trained and has been measured on validation; it may be ``reused`` from an earlier stage."""

    name: str
    path: Path
    val: SplitMetrics
    facts: TrainingFacts
    reused: bool


def read_variant(name: str, path: Path, *, reused: bool) -> VariantRun:
    """Read a finished variant.

    Raises:
        RunError: A file is missing or damaged.
    """
    run = Run(path)
    return VariantRun(name, path, run.validation(), run.training(), reused)


def known_runs(place: Path) -> Iterator[tuple[Path, Recipe]]:
    """Yield the finished runs below a folder, with their recipes."""
    for run in runs_below(place):
        if run.is_validated:
            yield run.path, run.recipe()


def lead_to_same_run(one: Recipe, other: Recipe) -> bool:
    """Return whether two recipes of a study lead to the same run.

    Neither the description matters nor how the data were named: that they are the same is told by their hash.
    """
    plain = [recipe.model_dump(exclude={"description": True, "data": {"name"}}) for recipe in (one, other)]
    return plain[0] == plain[1]


def weakest_classes(per_class: Mapping[str, Mapping[str, float]], count: int) -> list[str]:
    """Return the classes with the lowest F1, lowest first; those without images can't be judged and come last."""
    return sorted(per_class, key=lambda name: (not per_class[name]["support"], per_class[name]["f1-score"]))[:count]


def chosen_variant(runs: Sequence[VariantRun]) -> VariantRun:
    """Return the variant that validation chooses: the most accurate, and of equals the one with the lowest NLL.

    A run of an earlier stage gives way only to one that is better by more than a standard error, or a study with many
    variants would collect the luck of a thousand validation images.

    Source: the one-standard-error rule, Breiman et al. 1984, Classification and Regression Trees, section 3.4.3.
    """
    best = max(runs, key=lambda run: (run.val["accuracy"], -run.val["nll"]))
    before = next((run for run in runs if run.reused), best)
    accuracy, n = best.val["accuracy"], best.val["n"]
    standard_error = math.sqrt(accuracy * (1 - accuracy) / n)
    return best if accuracy - before.val["accuracy"] > standard_error else before


def stage_row(
    stage: Stage,
    seed: int,
    best: VariantRun,
    runs: Sequence[VariantRun],
    *,
    folder: Path,
    missing: Mapping[str, str],
    weakest: Sequence[str],
) -> dict[str, Any]:
    """Return a stage's row of ``study.json``."""
    run = Run(best.path)
    metrics, environment, recipe = run.metrics(), run.environment(), run.recipe()
    return {
        "name": stage.name,
        "title": stage.title,
        "what": stage.what,
        "aside": stage.aside,
        "published": stage.published.model_dump(exclude_none=True),
        "backbone": metrics["backbone"],
        "limit": recipe.data.limit,
        "seed": seed,
        "size": recipe.input_size,
        "variant": None if best.name == ONLY else best.name,
        "run": best.path.relative_to(folder).as_posix(),
        "reused": best.reused,
        "val": _figures(metrics["val"]),
        "test": _figures(metrics["test"]),
        "seconds": metrics["train_seconds"],
        "seconds_of_all_variants": round(sum(variant.facts.train_seconds for variant in runs if not variant.reused), 3),
        **{key: metrics[key] for key in _COSTS},
        "variants": [_variant(variant, folder, weakest) for variant in runs],
        "left_out": dict(missing),
        "weakest": list(weakest),
        "test_openings": len(environment.test_openings),
        "environment": {key: environment.to_dict()[key] for key in ("versions", "hardware", "threads")},
        "against": None,
    }


def _variant(run: VariantRun, folder: Path, weakest: Sequence[str]) -> dict[str, Any]:
    return {
        "name": run.name,
        "run": run.path.relative_to(folder).as_posix(),
        "reused": run.reused,
        "val_accuracy": run.val["accuracy"],
        "val_accuracy_ci95": run.val["accuracy_ci95"],
        "val_macro_f1": run.val["macro_f1"],
        "val_nll": run.val["nll"],
        "val_f1_of_weakest": {name: run.val["per_class"][name]["f1-score"] for name in weakest},
        "seconds": run.facts.train_seconds,
    }


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in _FIGURES}
