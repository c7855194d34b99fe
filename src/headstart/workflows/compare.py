"""From runs and exports to what can be said of them side by side, and to one page.

``evaluation`` and ``report`` are blind to each other; they meet in the dictionary made here, which ``--json`` prints
and from which the page is written, so that the two can't disagree. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from headstart.contracts import UInt8Images, keys_of, number_of_keys, value_of
from headstart.errors import DataError, InputError, RunError
from headstart.evaluation.comparable import ComparedRun, check_comparable, differing_settings, read_runs
from headstart.evaluation.comparison import (
    ALPHA,
    RESAMPLES,
    Change,
    ClassChange,
    PairedComparison,
    compare_predictions,
    holm,
)
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.evaluation.verdict import Pair, conclusion, decide, sentence
from headstart.report.compare_page import check_place, write_comparison
from headstart.tasks.metrics import METRICS
from headstart.terminal import Terminal
from headstart.wording import listed, percent
from headstart.workflows.load import load_data

EXAMPLES = 12
"""Images described in full for each pair and side; of the others only the rows."""


@dataclass(frozen=True, eq=False)
class Comparison(Mapping[str, Any]):
    """Runs side by side: what ``headstart compare --json`` prints, which can be read by key too.

    Attributes:
        dataset: Name of the data set.
        n: Test images.
        classes: Names of the classes, in index order.
        verdict: What may be concluded, in a sentence.
        runs: Figures of each run.
        pairs: Differences of each pair of runs.
        same_recipe: Groups of runs that share a recipe but for the seed.
        same_machine: Whether all runs were made on one kind of machine, so that their times can be compared.
        method: Tests, intervals and corrections.
        page: Path of the page; None where none was asked for.
    """

    dataset: str | None
    n: int
    classes: list[str]
    verdict: str
    runs: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    same_recipe: list[dict[str, Any]]
    same_machine: bool
    method: dict[str, Any]
    page: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


def compare(
    runs: Sequence[Path | str],
    *,
    out: Path | str | None = None,
    data_dir: Path | str | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare runs or exports that were measured on the same test images, pair by pair.

    Args:
        runs: Two run folders or more; exports, and ``hf://`` addresses of exports, count with the predictions that they
            carry. Differences are the later minus the earlier in this order.
        out: HTML file to write the page to; no page when None.
        data_dir: Local copy of the data set, for the page's images.
        progress: Show a bar on stderr while a data set is fetched for the images.

    Returns:
        Figures of the runs, and for each pair differences, intervals, McNemar's test, agreement, changes per class, the
        images that only one gets right and a verdict in words. Shares are of 1, rows are those of the first run's test
        split.

    Raises:
        InputError: Fewer than two runs, one of them twice, or ``out`` or ``data_dir`` is of no use.
        RunError: A folder holds no finished run, or the runs are not of the same test images and classes.
        BundleError: An export is damaged, or carries no predictions.
        DataError: ``data_dir`` holds no copy of the data set.

    Example:
        >>> compare(["runs/quickstart", "runs/mine"]).pairs[0]["verdict"]  # doctest: +SKIP
        'noise'
    """
    if isinstance(runs, str | Path):
        raise InputError(f"runs must be a list of run folders, but is {str(runs)!r} alone. Name two or more.")
    if out is not None:
        check_place(Path(out))
    elif data_dir is not None:
        raise InputError("--data-dir is for the images on the page, and no page is asked for. Add --out FILE.html.")
    compared = read_runs(runs)
    check_comparable(compared)
    result = _assemble(compared)
    if out is not None:
        local = Path(data_dir) if data_dir is not None else None
        # A run knows where its images lie, which an export does not tell.
        knowing = next((run for run in compared if run.precision is None), compared[0])
        pictures, why_none = _pictures(knowing, result.pairs, local, progress)
        write_comparison(result.to_dict(), Path(out), pictures=pictures, why_no_pictures=why_none)
        result = replace(result, page=str(out))
    return result


def _assemble(runs: Sequence[ComparedRun]) -> Comparison:
    names = runs[0].class_names
    labels, *predicted = _indices(runs, names)
    places = list(combinations(range(len(runs)), 2))
    comparisons = [compare_predictions(labels, predicted[i], predicted[j], num_classes=len(names)) for i, j in places]
    p_values = holm([comparison.p_value for comparison in comparisons])
    pairs = [
        _pair(runs[i], runs[j], comparison, p_value, names)
        for (i, j), comparison, p_value in zip(places, comparisons, p_values, strict=True)
    ]
    return Comparison(
        dataset=runs[0].recipe.get("data.name"),
        n=len(labels),
        classes=names,
        verdict=pairs[0]["sentence"] if len(pairs) == 1 else _overall(runs, pairs),
        runs=[_figures(run) for run in runs],
        pairs=pairs,
        same_recipe=_groups(runs),
        same_machine=all(run.machine == runs[0].machine for run in runs),
        method={
            "alpha": ALPHA,
            "test": "McNemar's exact test, two-sided",
            "correction": "Holm" if len(pairs) > 1 else None,
            "interval": "95% percentile bootstrap over images, paired",
            "resamples": RESAMPLES,
            "seed": 0,
        },
        page=None,
    )


def _indices(runs: Sequence[ComparedRun], names: Sequence[str]) -> list[Any]:
    """Return the labels, then each run's predictions, as indices of shape (n,) in one order for all."""
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[line.label] for line in runs[0].in_common_order], dtype=np.int64)
    return [
        labels,
        *(np.array([index[line.predicted] for line in run.in_common_order], dtype=np.int64) for run in runs),
    ]


def _figures(run: ComparedRun) -> dict[str, Any]:
    from_test = [key for metric in METRICS for key in (metric.name, metric.interval) if key]
    from_run = ("backbone", "train_seconds", "peak_rss_mb", "device", "precision", "seed")
    data = run.environment.data
    return {
        "name": run.name,
        "path": str(run.path),
        "export": run.precision,
        **{key: run.test[key] for key in from_test},
        **{key: run.facts.get(key) for key in from_run},
        "total_seconds": run.metrics.total_seconds,
        "size": _input_size(run.recipe),
        "train_images": data.n_train if data else None,
    }


def _input_size(recipe: dict[str, Any]) -> int | None:
    """Return the image size in pixels at which the finished classifier works, as ``Recipe.input_size`` has it."""
    steps = recipe.get("finetune.schedule")
    size: int | None = recipe.get("evaluation.size") or (steps[-1]["size"] if steps else recipe.get("probe.size"))
    return size


def _pair(
    first: ComparedRun, second: ComparedRun, comparison: PairedComparison, p_value: float, names: Sequence[str]
) -> dict[str, Any]:
    same_recipe = first.recipe_but_for_seed == second.recipe_but_for_seed
    verdict = decide(comparison, p_value=p_value, same_recipe=same_recipe)
    ratio = _cost_ratio(first, second)
    pair = Pair(first.name, second.name, names, same_recipe, ratio)
    return {
        "first": first.name,
        "second": second.name,
        "verdict": verdict,
        "conclusion": conclusion(verdict, pair),
        "sentence": sentence(verdict, comparison, pair, p_value=p_value),
        "accuracy_change": _change(comparison.accuracy),
        "macro_f1_change": _change(comparison.macro_f1),
        "mcnemar": {
            "both_right": comparison.both_right,
            "first_only": comparison.first_only,
            "second_only": comparison.second_only,
            "both_wrong": comparison.both_wrong,
            "p": comparison.p_value,
            "p_corrected": p_value,
            "smallest_gap": comparison.smallest_gap,
        },
        "agreement": round(comparison.agreement, 6),
        "kappa": _rounded(comparison.kappa),
        "train_seconds_ratio": _rounded(ratio),
        "settings": {key: list(pair) for key, pair in differing_settings(first, second).items()},
        "per_class": {name: _class(found) for name, found in zip(names, comparison.classes, strict=True)},
        "first_only": _only_one_right(first, second, winner=first),
        "second_only": _only_one_right(first, second, winner=second),
    }


def _cost_ratio(first: ComparedRun, second: ComparedRun) -> float | None:
    """Return the second's training time in units of the first's; None where it says nothing."""
    before, after = (run.facts.get("train_seconds") for run in (first, second))
    return after / before if before and after and first.machine == second.machine else None


def _change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {"value": _rounded(change.value), "ci95": [_rounded(change.low), _rounded(change.high)]}


def _class(found: ClassChange) -> dict[str, Any]:
    return {
        "support": found.support,
        "recall": [_rounded(value) for value in found.recall],
        "recall_change": _change(found.recall_change),
        "f1-score": [_rounded(value) for value in found.f1],
        "f1_change": _change(found.f1_change),
        "first_only": found.first_only,
        "second_only": found.second_only,
    }


def _rounded(value: float | None) -> float | None:
    """Return six decimals, as metrics.json has; + 0.0 turns a negative zero into zero."""
    return None if value is None else round(value, 6) + 0.0


def _only_one_right(first: ComparedRun, second: ComparedRun, *, winner: ComparedRun) -> dict[str, Any]:
    """Return the images that only ``winner`` gets right: all rows, and examples with the highest probabilities."""
    loser = second if winner is first else first
    found = [
        (ours.probability + theirs.probability, place.row, place.sha256, ours, theirs)
        for place, ours, theirs in zip(
            first.in_common_order, winner.in_common_order, loser.in_common_order, strict=True
        )
        if ours.predicted == ours.label != theirs.predicted
    ]
    found.sort(key=lambda image: (-image[0], image[1]))
    return {
        "rows": sorted(row for _, row, *_ in found),
        "examples": [
            {
                "row": row,
                # Runs of early versions name no files.
                **({"file": file} if (file := ours.file or theirs.file) else {}),
                "sha256": sha256,
                "label": ours.label,
                "right_probability": ours.probability,
                "wrong": theirs.predicted,
                "wrong_probability": theirs.probability,
            }
            for _, row, sha256, ours, theirs in found[:EXAMPLES]
        ],
    }


def _overall(runs: Sequence[ComparedRun], pairs: Sequence[dict[str, Any]]) -> str:
    best = max(runs, key=lambda run: run.test.accuracy)
    others: dict[str, list[str]] = {"beaten": [], "equal": [], "luck of the seed": []}
    for pair in pairs:
        if best.name in (pair["first"], pair["second"]):
            other = pair["second"] if pair["first"] == best.name else pair["first"]
            kind = {"noise": "equal", "same answers": "equal", "luck of the seed": "luck of the seed"}
            others[kind.get(pair["verdict"], "beaten")].append(other)
    words = (
        ("beaten", "it is better than {}, by more than the choice of test images explains"),
        ("luck of the seed", "it is ahead of {} by the luck of training, since only the seeds differ"),
        ("equal", "the test images can't tell whether it is better than {}"),
    )
    told = [text.format(listed(others[kind])) for kind, text in words if others[kind]]
    accuracy = best.test.accuracy
    return f"{best.name} has the highest accuracy, {percent(accuracy)}: {'; '.join(told)}."


def _groups(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return the runs that share a recipe but for the seed: how far the seed alone moves the accuracy."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        home = next((group for group in groups if group[0].recipe_but_for_seed == run.recipe_but_for_seed), None)
        groups.append([run]) if home is None else home.append(run)
    found = []
    for group in groups:
        accuracies = [run.test.accuracy for run in group]
        # A run and its export share the seed too.
        if len({run.settings.get("seed") for run in group}) > 1:
            spread = {"min": min(accuracies), "median": median(accuracies), "max": max(accuracies)}
            found.append({"runs": [run.name for run in group], "accuracy": spread})
    return found


def _pictures(
    run: ComparedRun, pairs: Sequence[dict[str, Any]], data_dir: Path | None, progress: bool
) -> tuple[Mapping[int, UInt8Images], str | None]:
    """Return the examples' pixels by row, each checked by its hash, or the reason why there are none."""
    wanted = {
        example["row"]: example["sha256"]
        for pair in pairs
        for side in ("first_only", "second_only")
        for example in pair[side]["examples"]
    }
    recorded = run.environment.data_dir
    place = data_dir or (Path(recorded) if recorded else None)
    try:
        dataset = load_data(run.run.recipe(), Terminal(enabled=progress), data_dir=place, run=run.run)
        pixels, hashes = mistake_pixels(dataset), dataset.sealed_test.image_hashes()
        if any(hashes[row] != sha256 for row, sha256 in wanted.items()):
            raise DataError("the data set at hand holds other test images than those that the runs were measured on.")
        pictures = {row: pixels(row) for row in wanted}
    except (DataError, RunError, IndexError) as error:
        if data_dir is not None:
            raise DataError(f"{data_dir} does not hold the images of these runs: {error}") from None
        return {}, str(error)
    return pictures, None
