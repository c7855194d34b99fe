"""The JSON files of a run as dataclasses: what each holds, checked when it is read.

A key that a later version has added is ignored when a file is read, and kept when it is changed.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.read import read_record, read_split

PACKAGES = ("headstart", "torch", "torchvision", "timm", "numpy")
"""Packages whose versions affect a run's figures."""
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_READABLE = ConfigDict(extra="ignore", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_READABLE)
class DataRecord:
    """The data set that a run started from.

    Attributes:
        name: Name of the data set.
        sha256: SHA-256 of the whole data set, whatever the limit.
        source: Where the images came from, for people.
        limit: Training images that the run may use; None for all.
        n_train: Images trained on.
        n_val: Images in the validation split.
        n_test: Images in the test split.
        licence: Licence of the images, where the data set tells it.
        files: Number of files by what became of them, as in ``files.csv``; None where images lie in arrays.
        copies: Counts of copies among them, as ``Dataset.copies``.
    """

    name: str
    sha256: str
    source: str = ""
    limit: int | None = None
    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    licence: str | None = None
    files: dict[str, int] | None = None
    copies: dict[str, Any] | None = None


@dataclass(frozen=True, config=_READABLE)
class Surroundings:
    """Where a process of a run worked.

    Attributes:
        command: What the user typed.
        started: Time at which the process joined the run, ISO 8601 in UTC.
        threads: CPU threads.
        device: Name of the torch device.
        versions: Version of Python and of each package that affects figures.
        hardware: What a reader needs to judge a timing.
    """

    command: str
    started: str
    threads: int
    device: str
    versions: dict[str, str]
    hardware: dict[str, Any]


@dataclass(frozen=True, config=_READABLE)
class Opening:
    """One opening of the test split.

    Attributes:
        time: Time of the opening, ISO 8601 in UTC.
        command: What the user typed.
        weights_sha256: SHA-256 of the weights file that was measured; None in runs of early versions.
    """

    time: str
    command: str
    weights_sha256: str | None = None


@dataclass(frozen=True, config=_READABLE)
class Environment:
    """What ``environment.json`` holds: what a stranger needs to judge a run and to repeat it.

    Attributes:
        versions: Of the process that started the run, as in ``Surroundings``; so are the next five.
        hardware: Its hardware.
        threads: Its CPU threads.
        device: Its torch device.
        command: What the user typed to start the run.
        started: Time at which the run started.
        seed: Seed of the recipe.
        data: Data set that the run started from.
        data_dir: Absolute path of the local copy of the data set, where one was given.
        weights: Record of the pretrained weights.
        arithmetic: Precision and memory format of the training, once they are chosen.
        plan: What was chosen to suit images, machine and time, and why; None where the recipe said everything.
        resumed: Later processes of the run, in order.
        test_openings: Every opening of the test split.
    """

    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    threads: int | None = None
    device: str | None = None
    command: str = ""
    started: str = ""
    seed: int | None = None
    data: DataRecord | None = None
    data_dir: str | None = None
    weights: dict[str, Any] = Field(default_factory=dict)
    arithmetic: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    resumed: list[Surroundings] = Field(default_factory=list)
    test_openings: list[Opening] = Field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``environment.json``."""
        return asdict(self)


@dataclass(frozen=True, config=_READABLE)
class TrainingFacts:
    """What ``training.json`` holds: facts about a finished training; the file exists once training is complete.

    Attributes:
        train_seconds: Seconds of training, those that cached features took an earlier run included.
        train_images_per_second: Training images per second of fine-tuning; 0 without fine-tuning.
        backbone: Name of the backbone.
        device: Name of the torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        seed: Seed of the recipe.
        peak_rss_mb: Largest resident memory, in MB (1e6 bytes).
        best_epoch: Epoch whose weights are kept, counted from 1; 0 for those from before fine-tuning.
        cached_seconds: Seconds an earlier run spent computing features that were found on disk.
        probe_val_accuracy: Accuracy on validation before fine-tuning.
        predicted_seconds: Seconds that the whole command was predicted to take; None without a plan, as is the next.
        predicted_mb: Peak of the resident memory that was predicted, in MB (1e6 bytes).
        needed_budget: Budget in seconds that has room for fine-tuning; None where the run's own had, or it had none.
        more_budget: Budget in seconds that has room for larger images or more epochs; None where none would gain.
    """

    train_seconds: float
    train_images_per_second: float
    backbone: str
    device: str
    precision: str
    seed: int
    peak_rss_mb: float
    best_epoch: int
    cached_seconds: float = 0.0
    probe_val_accuracy: float | None = None
    predicted_seconds: float | None = None
    predicted_mb: float | None = None
    needed_budget: float | None = None
    more_budget: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``training.json``."""
        return asdict(self)


@dataclass(frozen=True, config=_READABLE)
class Corruption:
    """One kind of corruption.

    Attributes:
        category: Kind of kinds, such as noise or blur.
        accuracy: Accuracy at each severity.
    """

    category: str
    accuracy: list[float]


@dataclass(frozen=True, config=_READABLE)
class Corruptions:
    """What ``corruptions.json`` holds: accuracy on corrupted test images.

    Attributes:
        n: Test images.
        severities: Severities, mildest first; the lists of accuracies have one entry for each.
        clean_accuracy: Accuracy on the same images as they are.
        accuracy: Mean accuracy over corruptions and severities.
        accuracy_ci95: Ends of its 95% interval.
        relative_accuracy: ``accuracy`` as a share of ``clean_accuracy``; None where that is 0.
        by_severity: Mean accuracy over corruptions.
        categories: Mean accuracy over the corruptions of each category.
        corruptions: Each corruption by its name.
    """

    n: _Count
    severities: list[_Count]
    clean_accuracy: float
    accuracy: float
    accuracy_ci95: tuple[float, float]
    relative_accuracy: float | None
    by_severity: list[float]
    categories: dict[str, list[float]]
    corruptions: dict[str, Corruption]

    def __post_init__(self) -> None:
        """Raise ValueError for lists of another length than the severities have."""
        lists = [self.by_severity, *self.categories.values(), *(found.accuracy for found in self.corruptions.values())]
        if not self.severities or not self.corruptions or any(len(row) != len(self.severities) for row in lists):
            raise ValueError("the lists of accuracies do not fit the severities")


@dataclass(frozen=True, config=_READABLE)
class Explained:
    """Class-activation maps of one image.

    Attributes:
        row: Its place in the test split.
        size: Its height and width in pixels.
        box: Part of it that the network sees: top, left, height and width.
        maps: From a class to a grid over the box, in shares of its largest value.
    """

    row: _Count
    size: tuple[_Count, _Count]
    box: tuple[float, float, float, float]
    maps: dict[str, list[list[float]]]

    def __post_init__(self) -> None:
        """Raise ValueError for a map that is no grid, or a part that lies far outside of the image."""
        grids = [grid for grid in self.maps.values() if not grid or len({len(row) for row in grid}) != 1 or not grid[0]]
        if grids or min(self.size) < 1 or max(map(abs, self.box)) > 2 * max(self.size):
            raise ValueError(f"the maps of row {self.row} do not fit their image")


@dataclass(frozen=True, config=_READABLE)
class Saliency:
    """What ``saliency.json`` holds: class-activation maps of mistakes.

    Attributes:
        method: Name of the method.
        library: Name and version of the library that computed the maps.
        layer: Layer of the network whose map of features was used.
        images: The explained images.
    """

    method: str
    library: str
    layer: str
    images: list[Explained]


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics(Mapping[str, Any]):
    """Figures of a run: what ``train`` and ``evaluate`` return, and what ``metrics.json`` holds.

    They can be read by key too, in the words of ``metrics.json``: ``metrics["test"]["accuracy"]``.

    Attributes:
        val: Figures on validation, which selects.
        test: Figures on the test split, which reports; None while that is sealed.
        temperature: What the logits are divided by before the softmax; None while the test split is sealed.
        straddling: Images that lie in both of two splits, for ``train+val``, ``train+test`` and ``val+test``.
        training: Facts about the training; None while the test split is sealed.
        total_seconds: Seconds of the whole command; None where the run was measured by another process.
        corruptions: Accuracy on corrupted test images, where that was measured.
        abstention: Thresholds found on validation, and the share and accuracy of the test images that they leave; None
            in runs of early versions.
        novelty: How the novelty score was chosen, and its false alarms; None in runs of early versions.
    """

    val: SplitMetrics
    test: SplitMetrics | None = None
    temperature: float | None = None
    straddling: dict[str, int] = dataclasses.field(default_factory=dict)
    training: TrainingFacts | None = None
    total_seconds: float | None = None
    corruptions: dict[str, Any] | None = None
    abstention: dict[str, Any] | None = None
    novelty: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``; of a run whose test split is sealed, ``val`` alone."""
        if self.test is None or self.training is None:
            return {"val": self.val.to_dict()}
        return {
            "val": self.val.to_dict(),
            "test": self.test.to_dict(),
            "temperature": self.temperature,
            "straddling": self.straddling,
            **self.training.to_dict(),
            "total_seconds": self.total_seconds,
            **{key: value for key in _OPTIONAL if (value := getattr(self, key)) is not None},
        }

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Metrics":
        """Read what ``to_dict`` gives; keys of later versions are left out.

        Raises:
            ValueError: Something is missing or wrong; the message names it, but not the file.
        """
        if missing := [key for key in ("val", "test", "temperature") if key not in content]:
            raise ValueError(f"{', '.join(missing)} missing")
        return cls(
            val=read_split(content["val"]),
            test=read_split(content["test"]),
            temperature=_finite(content["temperature"], "temperature"),
            straddling=read_record(dict[str, int], content.get("straddling", {})),
            training=read_record(TrainingFacts, content),
            total_seconds=None
            if content.get("total_seconds") is None
            else _finite(content["total_seconds"], "total_seconds"),
            **{key: read_record(dict[str, Any], content[key]) for key in _OPTIONAL if key in content},
        )


_OPTIONAL = ("corruptions", "abstention", "novelty")
"""Blocks of ``metrics.json`` that not every run has."""


def _finite(value: object, key: str) -> float:
    number = read_record(float, value)
    if not math.isfinite(number):
        raise ValueError(f"{key} must be a finite number")
    return number
