"""What a data set holds, before anything is trained: from its name to figures and a page.

Counting is in ``inspection``, features in ``features``, the test split in ``evaluation``, the page in ``report``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.compute.device import describe_hardware
from headstart.compute.memory import peak_memory_mb
from headstart.compute.session import Session
from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.data.dataset import load_dataset
from headstart.data.subset import Subset
from headstart.evaluation.look import look_at_test
from headstart.features.shipped import shipped_features
from headstart.inspection import duplicates
from headstart.inspection.copies import find_copies
from headstart.inspection.outliers import find_outliers
from headstart.inspection.statistics import Statistics, describe
from headstart.report.explore_page import MADE_BY
from headstart.workflows.explore_files import write_exploration

FEATURE_SIZE = 64
"""Side of the network's input, in pixels."""


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
    features = shipped_features(splits, FEATURE_SIZE, session)
    clock.lap("features")
    directions = duplicates.feature_directions(features.values)
    copies = find_copies(splits, directions, terminal.bar)
    outliers = find_outliers(dataset.train, directions[: len(dataset.train)])
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
        features=features.facts,
        versions={name: version(name) for name in ("headstart", "numpy", "torch")},
        hardware=describe_hardware(session.device),
        threads=session.threads,
        peak_rss_mb=round(peak_memory_mb(), 1),
        seconds=clock.seconds,
    )
    write_exploration(folder, found.to_dict(), statistics, splits)
    return found


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


def _describe(split: Subset) -> Statistics:
    return describe(split.blocks(), split.labels, split.class_names)
