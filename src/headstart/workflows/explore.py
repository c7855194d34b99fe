"""What a data set holds, before anything is trained: from its name to figures and a page.

Counting is in ``inspection``, features in ``features``, the test split in ``evaluation``, the page in ``report``.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.compute.device import describe_hardware
from headstart.compute.memory import peak_memory_mb
from headstart.compute.session import Session
from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.data.dataset import load_dataset
from headstart.data.subset import ImageSource, Subset
from headstart.data.working_copy import working_copy
from headstart.errors import RunError
from headstart.evaluation.look import look_at_test
from headstart.features.cache import FrozenBackbone, frozen_features
from headstart.files import write_atomically, write_json
from headstart.inspection import duplicates
from headstart.inspection.statistics import Statistics, describe
from headstart.models.backbones import Backbone, load_backbone
from headstart.models.fold import fold_batch_norm, pad_in_kernel
from headstart.models.heads import build_classifier
from headstart.report.explore_page import MADE_BY, explore_page
from headstart.runs.folder import check_writable
from headstart.terminal import Terminal

BACKBONE = "tf_efficientnet_lite0.in1k"
"""Its weights come in a package, so that exploring needs no network."""
FEATURE_SIZE = 64
"""Side of the network's input, in pixels."""
CORRELATIONS = (duplicates.PIXEL_THRESHOLD, 0.8, 0.85, 0.9, 0.95)
"""Limits at which copies of test images are counted, from what may be meant to what can't be denied."""
SAMPLES_OF_A_CLASS = 10
OUTLIERS_OF_A_CLASS = 5
PAGE, FIGURES = "explore.html", "explore.json"


@dataclass(frozen=True, eq=False)
class Exploration(Mapping[str, Any]):
    """What a data set holds: the content of ``explore.json``, which can be read by key too.

    Attributes:
        made_by: Mark by which headstart recognises its own file.
        data: Name, SHA-256, source and limit.
        class_names: In index order.
        train: Statistics of the training images.
        test: Statistics of the test images.
        duplicates: Exact and near duplicates, within and across splits.
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
    class_names: list[str]
    train: dict[str, Any]
    test: dict[str, Any]
    duplicates: dict[str, Any]
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


def explore(data: str, session: Session, *, limit: int | None, folder: Path, data_dir: Path | None) -> Exploration:
    """Describe a data set and write ``explore.json`` and ``explore.html`` into ``folder``.

    Raises:
        DataError: The data set can't be had, or the limit does not fit it.
        RunError: The folder can't be written.
    """
    clock, terminal = _Clock(), session.terminal
    dataset = load_dataset(data, limit=limit, data_dir=data_dir, progress=terminal.enabled)
    opening = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": session.command}
    splits = (dataset.train, look_at_test(dataset))
    clock.lap("loading")
    statistics: dict[str, Statistics] = {split.name: _describe(split) for split in splits}
    clock.lap("statistics")
    backbone = load_backbone(BACKBONE, progress=terminal.enabled)
    features = _features(backbone, splits, session.device, terminal)
    clock.lap("features")
    directions = duplicates.feature_directions(features)
    del features
    copies = _duplicates(splits, directions, terminal)
    outliers = _outliers(dataset.train, directions[: len(dataset.train)])
    clock.lap("duplicates")
    found = Exploration(
        made_by=MADE_BY,
        data={"name": dataset.name, "sha256": dataset.sha256, "source": dataset.source, "limit": limit},
        class_names=list(dataset.class_names),
        train=statistics["train"].as_dict(),
        test=statistics["test"].as_dict(),
        duplicates=copies,
        outliers=outliers,
        test_opening=opening | {"purpose": "description only: nothing was fitted to it or chosen by it"},
        features={"backbone": backbone.name, "weights_sha256": backbone.weights.sha256, "size": FEATURE_SIZE},
        versions={name: version(name) for name in ("headstart", "numpy", "torch")},
        hardware=describe_hardware(session.device),
        threads=session.threads,
        peak_rss_mb=round(peak_memory_mb(), 1),
        seconds=clock.seconds,
    )
    _write(folder, found.to_dict(), statistics, splits)
    return found


def default_folder(data: str) -> Path:
    """Return the folder for a data set's page where none is named: ``explore-NAME`` in the working folder."""
    return Path(f"explore-{Path(data).name}")


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


def check_place(folder: Path) -> None:
    """Raise RunError where ``folder`` can't take the page without overwriting what exploring has not written."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, so it can't hold a page. Name a folder with --out.")
    check_writable(folder)
    for name in (PAGE, FIGURES):
        path = folder / name
        if path.exists() and MADE_BY.encode() not in path.read_bytes()[:1000]:
            raise RunError(
                f"{path} was not written by `headstart explore`, so it is not overwritten. Name another folder with "
                "--out, or move it away."
            )


def _describe(split: Subset) -> Statistics:
    return describe(split.blocks(), split.labels, split.class_names)


def _features(
    backbone: Backbone, splits: Sequence[Subset], device: torch.device, terminal: Terminal
) -> list[NDArray[np.float32]]:
    """Return the features of each split's images, shape (n, features); kept on disk for the next time."""
    classifier = build_classifier(backbone, num_classes=len(splits[0].class_names), seed=0).eval().to(device)
    fold_batch_norm(classifier)
    pad_in_kernel(classifier)
    # What depthwise networks are fastest in.
    classifier = classifier.to(memory_format=torch.channels_last)
    frozen = FrozenBackbone(
        module=classifier,
        architecture=backbone.architecture,
        weights_sha256=backbone.weights.sha256,
        preprocess=replace(backbone.preprocess, size=FEATURE_SIZE, crop_pct=1.0),
        memory_format=torch.channels_last,
    )
    with terminal.bar("Features", sum(len(split) for split in splits)) as advance:
        return [
            frozen_features(frozen, working_copy(split, frozen.preprocess), advance=advance).values for split in splits
        ]


def _duplicates(splits: Sequence[Subset], directions: NDArray[np.float32], terminal: Terminal) -> dict[str, Any]:
    """Return what occurs more than once, within and across splits; each image by its split, row and label."""
    places = [
        {"split": split.name, "row": int(row), "label": split.class_names[int(label)]}
        for split in splits
        for row, label in zip(split.rows, split.labels, strict=True)
    ]
    hashes = [sha256 for split in splits for sha256 in split.identities]
    squares = np.concatenate([duplicates.luma_squares(split.blocks()) for split in splits])
    exact = duplicates.exact_duplicates(hashes)
    near = duplicates.near_duplicates(directions, squares, bar=terminal.bar)
    near = [pair for pair in near if hashes[pair.first] != hashes[pair.second]]
    kinds = Counter(f"{places[pair.first]['split']}+{places[pair.second]['split']}" for pair in near)
    names = [split.name for split in splits]
    groups = [(rows, 1.0) for rows in exact] + [((pair.first, pair.second), pair.pixel_similarity) for pair in near]
    return {
        "exact": {
            "groups": len(exact),
            "images": sum(len(rows) for rows in exact),
            "list": [[places[row] for row in rows] for rows in exact],
        },
        "near": {
            "pairs": {kind: kinds[kind] for kind in map("+".join, combinations_with_replacement(names, 2))},
            "feature_threshold": duplicates.FEATURE_THRESHOLD,
            "pixel_threshold": duplicates.PIXEL_THRESHOLD,
            "list": [
                {
                    "images": [places[pair.first], places[pair.second]],
                    "pixel_similarity": round(pair.pixel_similarity, 4),
                    "feature_similarity": round(pair.feature_similarity, 4),
                }
                for pair in near
            ],
        },
        "test_images": _test_images(groups, first=len(splits[0]), count=len(splits[1])),
    }


def _test_images(groups: Sequence[tuple[tuple[int, ...], float]], *, first: int, count: int) -> dict[str, Any]:
    """Return how many test images have a copy, exact or near, in train, and how many have one anywhere.

    Args:
        groups: Rows of images that show the same, and the correlation of their pixels.
        first: Row of the first test image; those before it are training images.
        count: Number of test images.
    """

    def copied_in_train(least: float) -> int:
        return len(
            {row for rows, alike in groups if alike >= least and min(rows) < first for row in rows if row >= first}
        )

    in_train = copied_in_train(0.0)
    anywhere = len({row for rows, _ in groups for row in rows if row >= first})
    return {
        "copied_in_train": in_train,
        "copied_in_train_share": round(in_train / count, 6),
        "copied_in_train_by_correlation": {f"{level:.2f}": copied_in_train(level) for level in CORRELATIONS},
        "copied_anywhere": anywhere,
        "copied_anywhere_share": round(anywhere / count, 6),
    }


def _outliers(train: Subset, directions: NDArray[np.float32]) -> dict[str, list[dict[str, Any]]]:
    """Return for each class the training images that are least like the rest of it."""
    likeness = duplicates.likeness_to_class(directions, train.labels)
    return {
        name: [
            {"split": train.name, "row": int(train.rows[i]), "likeness": round(float(likeness[i]), 4)}
            for i in _least(likeness, np.flatnonzero(train.labels == index))
        ]
        for index, name in enumerate(train.class_names)
    }


def _least(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.argsort(values[rows], kind="stable")[:OUTLIERS_OF_A_CLASS]]


def _write(folder: Path, found: dict[str, Any], statistics: dict[str, Statistics], splits: Sequence[Subset]) -> None:
    sources: dict[str, ImageSource] = {split.name: split.source for split in splits}
    page = explore_page(
        found,
        picture=lambda split, row: sources[split].image(row),
        samples=_samples(splits[0]),
        mean_images=statistics["train"].mean_images,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FIGURES, found)
        write_atomically(folder / PAGE, page)
    except OSError as error:
        raise RunError(f"{folder} can't be written: {error.strerror}. Check space and permissions.") from None


def _samples(train: Subset) -> dict[str, list[int]]:
    """Return the first rows of each class: no choice by anybody."""
    return {
        name: np.flatnonzero(train.labels == index)[:SAMPLES_OF_A_CLASS].tolist()
        for index, name in enumerate(train.class_names)
    }
