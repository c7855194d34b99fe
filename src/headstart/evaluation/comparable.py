"""The runs and exports to compare: read, named, and refused where their figures would not be about the same images."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

from headstart.bundle.exported import read_export
from headstart.contracts import HUB, listed
from headstart.errors import InputError, RecipeError, RunError
from headstart.evaluation.carried import carried_run
from headstart.inference.origin import Origin, origin_of
from headstart.recipe.schema import parse_recipe
from headstart.recipe.tree import dotted
from headstart.runs.predictions import PredictionRow
from headstart.runs.records import Environment, Metrics
from headstart.runs.run import Run
from headstart.tasks.metrics import SplitMetrics
from headstart.wording import typed

_WITHOUT_EFFECT = ("description", "seed")
"""Keys of a recipe that do not make it another recipe; what ``hardware`` came to is compared as it was chosen."""
_PATHS = ("data.name", "data.labels_from", "weights")
"""Keys that hold paths, of which an export carries the last part alone."""


@dataclass(frozen=True)
class ComparedRun:
    """An evaluated run, or an export with what was measured of it.

    Attributes:
        name: Name of its folder, with as much of the path before it as sets it apart from the others; or its address.
        path: Path of its folder.
        run: What holds its files: the run's folder, or the one that an export carries.
        precision: Type of number that an export computes with; None for a run.
        metrics: Its figures.
        test: Its figures on the test split.
        environment: Where and from what it was made.
        predictions: Its predictions for the test split.
        recipe: Every setting by its dotted key.
    """

    name: str
    path: Path
    run: Run
    precision: str | None
    metrics: Metrics
    test: SplitMetrics
    environment: Environment
    predictions: list[PredictionRow] = field(repr=False)
    recipe: dict[str, Any] = field(repr=False)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the classifier's outputs."""
        return self.test.class_names

    @cached_property
    def in_common_order(self) -> list[PredictionRow]:
        """The predictions in an order that depends on the test images alone, not on the names of their files."""
        return sorted(self.predictions, key=lambda line: (line.sha256, line.label, line.row))

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the training, by their keys in ``metrics.json``."""
        return self.metrics.training.to_dict() if self.metrics.training else {}

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted key, and the precision that the hardware's settings came to.

        Files count by their names, and data by their content. An export in float32 is certified to answer like its run,
        so that only another precision is a setting.
        """
        names = {key: PurePath(path).name for key in _PATHS if isinstance(path := self.recipe.get(key), str)}
        data = {"data.sha256": self.environment.data.sha256} if self.environment.data else {}
        export = {"export": self.precision} if self.precision not in (None, "fp32") else {}
        return self.recipe | names | data | {"precision": self.facts.get("precision")} | export

    @property
    def recipe_but_for_seed(self) -> dict[str, Any]:
        """The settings that decide what kind of classifier comes out."""
        return {
            key: value
            for key, value in self.settings.items()
            if key not in _WITHOUT_EFFECT and not key.startswith("hardware.")
        }

    @property
    def machine(self) -> tuple[Any, ...]:
        """What seconds depend on; those of different machines can't be compared."""
        return self.environment.hardware, self.environment.threads, self.facts.get("device")


def read_runs(models: Sequence[Path | str]) -> list[ComparedRun]:
    """Read runs and exports; a run's ``model`` folder stands for the run.

    Raises:
        InputError: Fewer than two, or one of them twice.
        RunError: A folder holds no finished run, or one of its files is damaged or of another evaluation.
        BundleError: An export is damaged, or carries no predictions; or the Hub does not give one.
        DataError: A split manifest is damaged.
    """
    if len(models) < 2:
        raise InputError("A comparison needs two runs or more: headstart compare RUN RUN...")
    origins = [origin_of(model) for model in models]
    paths = [_path(origin) for origin in origins]
    for (i, one), (j, other) in combinations(enumerate(paths), 2):
        if one.resolve() == other.resolve():
            raise InputError(f"{models[i]} and {models[j]} are the same run. Name each run once.")
    names = _names(paths)
    return [_read(*found) for found in zip(origins, paths, names, strict=True)]


def check_comparable(runs: Sequence[ComparedRun]) -> None:
    """Check that all runs name the same classes and were measured on the same images with the same labels.

    Files may have been moved and renamed in between: what counts is the pixels' hash and the label.

    Raises:
        RunError: They were not; the message says in what they differ.
    """
    first = runs[0]
    for other in runs[1:]:
        _check_classes(first, other)
        _check_images(first, other)


def differing_settings(first: ComparedRun, second: ComparedRun) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two recipes differ, as (first, second); None where one does not have the key."""
    ours, theirs = first.settings, second.settings
    keys = [*ours, *(key for key in theirs if key not in ours)]
    pairs = {key: (ours.get(key), theirs.get(key)) for key in keys if key != "description"}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _path(origin: Origin) -> Path:
    """Return the folder of an export or of a measured run."""
    run = origin.run
    if origin.is_export:
        return origin.folder
    if run is None:
        what = "a classifier without its run" if origin.is_classifier else "no run"
        raise RunError(
            f"{origin.named} holds {what}, so there are no predictions to compare. Give the --out folders of finished "
            "trainings, or exports of them."
        )
    if not run.is_measured and not run.is_trained:
        raise RunError(
            f"{run.path} is not trained to the end, so there is nothing to compare. "
            f"Finish it: {typed('train', '--resume', run.path)}"
        )
    if not run.is_measured:
        raise RunError(f"{run.path} is trained but not measured. Measure it: {typed('evaluate', run.path)}")
    return run.path


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the end of each path, as long as it takes for all to differ."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(origin: Origin, path: Path, name: str) -> ComparedRun:
    run = origin.run or carried_run(path)
    again = "Export it again." if origin.is_export else f"Measure the run again: {typed('evaluate', path)}"
    metrics, predictions = run.metrics(), run.predictions()
    test = metrics.test
    assert test is not None, "Run.metrics refuses figures without those of the test split"
    correct, n = sum(line.label == line.predicted for line in predictions), len(predictions)
    if abs(correct / n - test.accuracy) > 1e-6:
        raise RunError(
            f"The figures and the predictions in {path} are not of one evaluation: {correct:,} of {n:,} "
            f"predictions are right, and the accuracy is {test.accuracy}. {again}"
        )
    measured = Counter((line.sha256, line.label) for line in predictions)
    if measured != Counter((row.sha256, row.label) for row in run.manifest().rows if row.split == "test"):
        raise RunError(f"The predictions in {path} are not for the test images of its split manifest. {again}")
    unknown = {word for line in predictions for word in (line.label, line.predicted)} - set(test.class_names)
    if unknown:
        raise RunError(
            f"The predictions in {path} name classes that its figures do not know: {listed(sorted(unknown))}. {again}"
        )
    precision = read_export(path).precision if origin.is_export else None
    name = origin.named if origin.named.startswith(HUB) else name
    return ComparedRun(name, path, run, precision, metrics, test, run.environment(), predictions, _settings(run))


def _settings(run: Run) -> dict[str, Any]:
    content = run.recipe_content()
    # A key that did not exist yet had the default's effect. What this version can't read is compared as it stands.
    with suppress(RecipeError):
        content = parse_recipe(content, run.name).model_dump(mode="json")
    return {key: value for key, value in dotted(content).items() if value != {}}


def _check_classes(first: ComparedRun, other: ComparedRun) -> None:
    ours, theirs = set(first.class_names), set(other.class_names)
    if ours != theirs:
        told = [
            f"only {run.name} knows {listed(sorted(extra))}"
            for run, extra in ((first, ours - theirs), (other, theirs - ours))
            if extra
        ]
        raise RunError(
            f"{first.name} and {other.name} do not name the same classes: {'; '.join(told)}. "
            "Compare runs of one data set."
        )


def _check_images(first: ComparedRun, other: ComparedRun) -> None:
    ours, theirs = (Counter((line.sha256, line.label) for line in run.predictions) for run in (first, other))
    if ours == theirs:
        return
    only_ours, only_theirs = ours - theirs, theirs - ours
    images, other_images = (Counter(sha256 for sha256, _ in keys.elements()) for keys in (only_ours, only_theirs))
    relabelled = (images & other_images).total()
    told = [
        f"{count:,} {what}"
        for count, what in (
            ((images - other_images).total(), f"of the test images of {first.name} are not in {other.name}"),
            ((other_images - images).total(), f"of those of {other.name} are not in {first.name}"),
            (relabelled, "have another label"),
        )
        if count
    ]
    raise RunError(
        f"{first.name} and {other.name} were measured on different test splits, so their figures can't be compared: "
        f"{'; '.join(told)}. Train both on the same data with the same test split, then compare again."
    )
