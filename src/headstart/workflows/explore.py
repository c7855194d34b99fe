"""What a data set holds, before anything is trained: from its name to figures and a page.

Counting is in ``inspection``, features in ``features``, the test split in ``evaluation``, the page in ``report``.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from headstart.compute.device import describe_hardware
from headstart.compute.memory import peak_memory_mb
from headstart.compute.session import Session
from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.data.copies import contradicted, find_near_copies, joined
from headstart.data.dataset import Dataset, in_files, load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.ledger import Ledger
from headstart.data.near_copies import luma_squares
from headstart.data.screening import screen
from headstart.data.working_copy import Squares
from headstart.errors import InputError
from headstart.evaluation.look import look_at_test
from headstart.features.shipped import ShippedBackbone, bounded_blocks, shipped_backbone
from headstart.inspection import duplicates
from headstart.inspection.copies import find_copies
from headstart.inspection.label_errors import FOLDS, ROUNDS, deal_folds, find_label_errors, judge_labels
from headstart.inspection.outliers import find_outliers
from headstart.inspection.quality import find_quality_issues
from headstart.inspection.statistics import Statistics, describe
from headstart.recipe.sections import DataRecipe
from headstart.report.explore_page import MADE_BY
from headstart.workflows.explore_files import write_exploration
from headstart.workflows.load import options_to_look

FEATURE_SIZE = 64
"""Side of the network's input with which copies and outliers are found, in pixels."""
LABEL_SIZE = 128
"""The same for label errors; benchmarks/results/labels.json compares sizes."""


_SPLIT_OF_ARRAYS = (
    "Training keeps the data set's own test split, whatever it has copies of, and draws validation images from the "
    "training images, exact copies together."
)


@dataclass(frozen=True)
class LookOptions:
    """How much of a data set is looked at, and for what.

    Attributes:
        limit: Number of training images to keep; all of them when None.
        seed: Random seed for the validation split of images in files; 0 when None.
        data_dir: Local copy of the data set, instead of a download.
        labels: Whether label errors are looked for.
        all_splits: Whether they are looked for in the test split too, whose labels are not looked at otherwise.
    """

    limit: int | None = None
    seed: int | None = None
    data_dir: Path | None = None
    labels: bool = False
    all_splits: bool = False


@dataclass(frozen=True, eq=False)
class Exploration(Mapping[str, Any]):
    """What a data set holds: the content of ``explore.json``, which can be read by key too.

    Attributes:
        made_by: Mark by which headstart recognises its own file.
        data: Name, SHA-256, source and limit; seed and share of validation images, None where images lie in arrays; and
            the name or absolute path that was given.
        splits: How training splits these images and what it does with copies, as sentences.
        files: What became of the files, and which of them can't be read; None where the images lie in arrays.
        class_names: In index order.
        train: Statistics of the training images.
        test: Statistics of the test images; None where there are none.
        duplicates: Exact and near duplicates, within and across splits.
        quality: Images that are blurred, dark, bright, of odd size or shape, or hold little.
        label_errors: Suspected label errors; None where they were not looked for.
        outliers: Training images that are least like the rest of their class, by class.
        test_opening: When and why the test split was opened.
        features: Backbone, weights and image size of the features.
        versions: Versions of the packages that affect the figures.
        hardware: What a reader needs to judge a timing.
        threads: CPU threads.
        peak_rss_mb: Largest resident memory, in MB (1e6 bytes).
        seconds: Seconds of each part, and of all together.
    """

    made_by: str
    data: dict[str, Any]
    splits: list[str]
    files: dict[str, Any] | None
    class_names: list[str]
    train: dict[str, Any]
    test: dict[str, Any] | None
    duplicates: dict[str, Any]
    quality: dict[str, Any]
    label_errors: dict[str, Any] | None
    outliers: dict[str, list[dict[str, Any]]]
    test_opening: dict[str, str]
    features: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    threads: int
    peak_rss_mb: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``explore.json``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


def explore(data: DataRecipe, session: Session, folder: Path, look: LookOptions) -> Exploration:
    """Describe a data set and write what was found into ``folder``.

    Raises:
        DataError: The data set can't be had, or the limit does not fit it.
        InputError: A seed or a share of validation images that would change nothing.
        WriteError: The folder can't be written.
    """
    if not in_files(data.name) and (look.seed is not None or "val_fraction" in data.model_fields_set):
        raise InputError(
            f"{data.name} consists of arrays, and exploring them draws no validation images, so --seed and "
            "--val-fraction would change nothing. Leave them out."
        )
    clock, terminal = _Clock(), session.terminal
    options = options_to_look(data, seed=look.seed or 0)
    loaded = load_dataset(
        data.name, limit=look.limit, data_dir=look.data_dir, progress=terminal.enabled, options=options
    )
    dataset = screen(loaded, on_bad=options.on_bad, terminal=terminal)
    opening = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": session.command}
    splits = tuple(split for split in (dataset.train, look_at_test(dataset)) if len(split))
    clock.lap("loading")
    backbone = shipped_backbone(len(dataset.class_names), session)
    squares = [backbone.squares(split) for split in splits]
    statistics = {split.name: _described(images) for split, images in zip(splits, squares, strict=True)}
    quality = find_quality_issues(splits, [bounded_blocks(images) for images in squares])
    clock.lap("statistics")
    directions = duplicates.feature_directions(backbone.features(squares, FEATURE_SIZE))
    clock.lap("features")
    source = joined(splits)
    # Both must tell the same: what training finds in files counts here.
    known = None if source is None else find_near_copies(source, np.arange(len(source)), terminal)
    compared = [] if known else squares
    lumas = luma_squares(block for images in compared for block in bounded_blocks(images))
    copies = find_copies(splits, directions, lumas, terminal.bar, known=known)
    outliers = find_outliers(dataset.train, directions[: len(dataset.train)])
    clock.lap("duplicates")
    suspects = _label_errors(backbone, squares if look.all_splits else squares[:1]) if look.labels else None
    clock.lap("labels")
    found = Exploration(
        made_by=MADE_BY,
        data=_facts(dataset, options, look.limit) | {"given": data.name},
        splits=_splits(dataset),
        files=_files(dataset.ledger),
        class_names=list(dataset.class_names),
        train=statistics["train"].as_dict(),
        test=statistics["test"].as_dict() if "test" in statistics else None,
        duplicates=copies,
        quality=quality,
        label_errors=suspects,
        outliers=outliers,
        test_opening=opening | {"purpose": _purpose(look)},
        features=backbone.facts | {"size": FEATURE_SIZE},
        versions={name: version(name) for name in ("headstart", "numpy", "torch")},
        hardware=describe_hardware(session.device),
        threads=session.threads,
        peak_rss_mb=round(peak_memory_mb(), 1),
        seconds=clock.seconds,
    )
    write_exploration(folder, found.to_dict(), statistics["train"].mean_images, splits, dataset.ledger)
    return found


def _facts(dataset: Dataset, options: FileOptions, limit: int | None) -> dict[str, Any]:
    """Return which images were looked at, and what decided which of them validate; None where no such were drawn."""
    facts = {"name": dataset.name, "sha256": dataset.sha256, "source": dataset.source, "limit": limit}
    drawn = {"seed": options.seed, "val_fraction": options.val_fraction}
    return facts | (drawn if dataset.ledger else dict.fromkeys(drawn))


def _splits(dataset: Dataset) -> list[str]:
    """Return how training splits a data set, as sentences; contradictory labels are told beside near copies."""
    if dataset.copies is None:
        return [_SPLIT_OF_ARRAYS]
    return [note for note in dataset.notes if note not in contradicted(dataset.copies)]


def _purpose(look: LookOptions) -> str:
    if look.labels and look.all_splits:
        return "description, and label errors were looked for in it, by a classifier that was fitted to it as well"
    return "description only: nothing was fitted to it or chosen by it"


def _described(images: Squares) -> Statistics:
    split = images.subset
    sizes = split.source.sizes[split.rows]
    return describe(bounded_blocks(images), split.labels, split.class_names, sizes=sizes)


def _files(ledger: Ledger | None) -> dict[str, Any] | None:
    """Return what became of the files, and which can't be read for what reason; None where there are no files."""
    if ledger is None:
        return None
    by_reason: dict[str, list[str]] = {}
    for path, reason in ledger.refused().items():
        by_reason.setdefault(reason.partition(" (")[0], []).append(path)
    return {"counts": ledger.counts(), "refused": by_reason}


def _label_errors(backbone: ShippedBackbone, squares: Sequence[Squares]) -> dict[str, Any]:
    """Return suspected label errors; an image's features are the mean of those of its two sides."""
    plain, mirrored = (backbone.features(squares, LABEL_SIZE, mirror=mirror) for mirror in (False, True))
    features = np.concatenate([(one + other) / 2 for one, other in zip(plain, mirrored, strict=True)])
    splits = [images.subset for images in squares]
    labels = np.concatenate([split.labels for split in splits])
    folds = deal_folds([image for split in splits for image in split.identities], labels)
    with backbone.session.terminal.bar("Labels", ROUNDS * FOLDS) as advance:
        judged = judge_labels(features, labels, folds, classes=len(splits[0].class_names), advance=advance)
    return find_label_errors(splits, judged) | {"features": backbone.facts | {"size": LABEL_SIZE}}


class _Clock:
    """Seconds that each part took, and all of them together."""

    def __init__(self) -> None:
        self._begun = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.seconds |= {part: round(now - self._last, 1), "total": round(now - self._begun, 1)}
        self._last = now
