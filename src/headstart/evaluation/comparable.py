"""The runs to compare: read, named, and refused where their figures would not be about the same images."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from headstart.contracts import listed
from headstart.data.splits import read_manifest
from headstart.errors import InputError, RecipeError, RunError
from headstart.recipe.read import read_yaml
from headstart.recipe.schema import parse_recipe
from headstart.runs.predictions import PredictionRow, RunFiles, read_run

_WITHOUT_EFFECT = ("description", "seed")
"""Keys of a recipe that do not make it another recipe; ``hardware`` says where it runs, and does not either."""


@dataclass(frozen=True)
class ComparedRun:
    """An evaluated run.

    Attributes:
        name: Of its folder, with as much of the path before it as sets it apart from the others.
        path: The run's folder.
        files: What it holds.
        recipe: Every setting by its dotted key.
    """

    name: str
    path: Path
    files: RunFiles
    recipe: dict[str, Any]

    @cached_property
    def answers(self) -> list[PredictionRow]:
        """The predictions in an order that depends on the test images alone, not on the names of their files."""
        return sorted(self.files.predictions, key=lambda line: (line.sha256, line.label, line.row))

    @property
    def recipe_but_for_seed(self) -> dict[str, Any]:
        """The settings that decide what kind of classifier comes out."""
        return {
            key: value
            for key, value in self.recipe.items()
            if key not in _WITHOUT_EFFECT and not key.startswith("hardware.")
        }

    @property
    def machine(self) -> tuple[Any, ...]:
        """What seconds depend on; those of different machines can't be compared."""
        environment = self.files.environment
        return environment.get("hardware"), environment.get("threads"), self.files.metrics.get("device")


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs in ``folders``; a run's ``model`` folder stands for the run.

    Raises:
        InputError: Fewer than two, or one of them twice.
        RunError: A folder holds no finished run, or one of its files is damaged or of another evaluation.
        DataError: A split manifest is damaged.
    """
    if len(folders) < 2:
        raise InputError("A comparison needs two runs or more: headstart compare RUN RUN...")
    paths = [_run_folder(folder) for folder in folders]
    for (i, one), (j, other) in combinations(enumerate(paths), 2):
        if one.resolve() == other.resolve():
            raise InputError(f"{folders[i]} and {folders[j]} are the same run. Name each run once.")
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


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
    keys = [*first.recipe, *(key for key in second.recipe if key not in first.recipe)]
    pairs = {key: (first.recipe.get(key), second.recipe.get(key)) for key in keys if key != "description"}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _run_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise RunError(f"There is no run folder at {folder}. Give the --out folders of finished trainings.")
    if not (folder / "recipe.yaml").is_file() and (folder.resolve().parent / "recipe.yaml").is_file():
        folder = folder.parent if folder.name == "model" else folder
    if not (folder / "recipe.yaml").is_file():
        raise RunError(
            f"{folder} holds no run: there is no recipe.yaml in it. Give the --out folders of finished trainings."
        )
    missing = [name for name in ("metrics.json", "predictions.csv") if not (folder / name).is_file()]
    if missing and not (folder / "training.json").is_file():
        raise RunError(
            f"{folder} is not trained to the end, so there is nothing to compare. "
            f"Finish it: headstart train --resume {folder}"
        )
    if missing:
        raise RunError(
            f"{folder} is trained but not measured: there is no {' and no '.join(missing)} in it. "
            f"Measure it: headstart evaluate {folder}"
        )
    return folder


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the end of each path, as long as it takes for all to differ."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(path: Path, name: str) -> ComparedRun:
    files = read_run(path)
    correct = sum(line.label == line.predicted for line in files.predictions)
    n, told = len(files.predictions), files.metrics["test"].get("accuracy")
    if not n or not isinstance(told, int | float) or abs(correct / n - told) > 1e-6:
        raise RunError(
            f"{path / 'predictions.csv'} is not what {path / 'metrics.json'} tells of: {correct:,} of {n:,} are right "
            f"in the one, and accuracy is {told} in the other. Measure the run again: headstart evaluate {path}"
        )
    measured = Counter((line.sha256, line.label) for line in files.predictions)
    manifest = read_manifest(path / "split_manifest.csv")
    if measured != Counter((row.sha256, row.label) for row in manifest.rows if row.split == "test"):
        raise RunError(
            f"The images in {path / 'predictions.csv'} are not the test images of {path / 'split_manifest.csv'}. "
            f"Measure the run again: headstart evaluate {path}"
        )
    unknown = {word for line in files.predictions for word in (line.label, line.predicted)} - set(files.class_names)
    if unknown:
        raise RunError(
            f"{path / 'predictions.csv'} names classes that {path / 'metrics.json'} does not know: "
            f"{', '.join(sorted(unknown))}. Measure the run again: headstart evaluate {path}"
        )
    return ComparedRun(name, path, files, _settings(path, files.recipe))


def _settings(path: Path, recipe: str) -> dict[str, Any]:
    try:
        content = read_yaml(recipe, str(path / "recipe.yaml"))
    except RecipeError as error:
        raise RunError(f"{error} Restore it.") from None
    # A key that did not exist yet had the default's effect. What this version can't read is compared as it stands.
    with suppress(RecipeError):
        content = parse_recipe(content, str(path / "recipe.yaml")).model_dump(mode="json")
    return _dotted(content)


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check_classes(first: ComparedRun, other: ComparedRun) -> None:
    ours, theirs = set(first.files.class_names), set(other.files.class_names)
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
    ours, theirs = (Counter((line.sha256, line.label) for line in run.files.predictions) for run in (first, other))
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
