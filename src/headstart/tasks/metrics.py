"""The one list of metrics: what each is called, how it is written and where it is shown; and their values on a split.

The model card, the terminal, the page of a run and the comparison of runs take titles and formats from ``METRICS``.
Nothing here needs torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from headstart.wording import Format, number, percent

Place = Literal["card", "terminal", "page", "comparison"]


@dataclass(frozen=True)
class Metric:
    """One figure of a split.

    Attributes:
        name: Key in ``metrics.json``.
        title: What people read.
        short: Heading of a narrow column.
        write: How a value is written.
        higher_is_better: Direction of improvement.
        shown: Places that show it.
        interval: Key of its 95% interval; None where there is none.
    """

    name: str
    title: str
    short: str
    write: Format
    higher_is_better: bool
    shown: frozenset[Place]
    interval: str | None = None


def _nats(value: float) -> str:
    return number(value, 4)


_EVERYWHERE: frozenset[Place] = frozenset({"card", "terminal", "page", "comparison"})
_CARD: frozenset[Place] = frozenset({"card"})

METRICS = (
    Metric("accuracy", "Accuracy", "accuracy", percent, True, _EVERYWHERE, interval="accuracy_ci95"),
    Metric("macro_f1", "Macro F1", "macro F1", percent, True, frozenset({"card", "page", "comparison"})),
    Metric("nll", "Log loss (nats)", "log loss", _nats, False, _CARD),
    Metric("nll_calibrated", "Log loss after calibration (nats)", "log loss, calibrated", _nats, False, _CARD),
    Metric(
        "ece", "Calibration error (ECE) before calibration", "ECE before", percent, False, _EVERYWHERE - {"comparison"}
    ),
    Metric("ece_calibrated", "Calibration error (ECE)", "ECE", percent, False, _EVERYWHERE),
)
"""In the order in which they are shown."""


def shown_in(place: Place) -> tuple[Metric, ...]:
    """Return the metrics that one place shows, in order."""
    return tuple(metric for metric in METRICS if place in metric.shown)


ClassFigures = TypedDict("ClassFigures", {"precision": float, "recall": float, "f1-score": float, "support": int})
"""Figures of one class, or of an average over classes; the keys are scikit-learn's."""


UNEVEN = 1.5
"""Ratio of the largest to the smallest class above which macro averages are shown first."""


def are_uneven(counts: Iterable[int]) -> bool:
    """Return whether some class has so many more images than another that accuracy hides what becomes of the small.

    Classes without images do not count.
    """
    present = [count for count in counts if count]
    return max(present, default=0) > UNEVEN * min(present, default=0)


def is_uneven(per_class: Mapping[str, ClassFigures]) -> bool:
    """Return whether the classes of a split are uneven; see ``are_uneven``."""
    return are_uneven(figures["support"] for figures in per_class.values())


def balanced_accuracy(per_class: Mapping[str, ClassFigures]) -> float:
    """Return the mean of the recall over the classes that have images, as in scikit-learn."""
    recalls = [figures["recall"] for figures in per_class.values() if figures["support"]]
    return sum(recalls) / len(recalls)


class Bin(TypedDict):
    """Images whose confidence lies in (lower, upper]; the means are None where there are none."""

    lower: float
    upper: float
    n: int
    confidence: float | None
    accuracy: float | None
    accuracy_ci95: list[float] | None


@dataclass(frozen=True, eq=False)
class SplitMetrics(Mapping[str, Any]):
    """What was measured on one split: the value of ``val`` or ``test`` in ``metrics.json``.

    It can be read by attribute and, as a mapping, by the keys of the file: ``metrics["accuracy"]``.

    Attributes:
        accuracy: Share of the images given the right label.
        accuracy_ci95: Ends of its 95% Wilson interval.
        n: Images.
        macro_f1: Mean F1 over the classes that occur or are predicted.
        nll: Mean negative log-likelihood of the plain softmax, in nats.
        nll_calibrated: The same after temperature scaling.
        ece: Expected calibration error of the plain softmax.
        ece_calibrated: The same after temperature scaling.
        ece_bins: Bins of the calibration error.
        per_class: Figures of each class by name, in the order of the classifier's outputs.
        macro_avg: Mean over classes; ``macro avg`` in the file.
        weighted_avg: Mean over classes, weighted by their images; ``weighted avg`` in the file.
        confusion_matrix: Images by true class (row) and predicted class (column).
        reliability: Bins of confidence of the plain softmax.
        reliability_calibrated: The same after temperature scaling.
    """

    accuracy: float
    accuracy_ci95: list[float]
    n: int
    macro_f1: float
    nll: float
    nll_calibrated: float
    ece: float
    ece_calibrated: float
    ece_bins: int
    per_class: dict[str, ClassFigures] = field(repr=False)
    macro_avg: ClassFigures = field(repr=False)
    weighted_avg: ClassFigures = field(repr=False)
    confusion_matrix: list[list[int]] = field(repr=False)
    reliability: list[Bin] = field(repr=False)
    reliability_calibrated: list[Bin] = field(repr=False)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the classifier's outputs."""
        return list(self.per_class)

    def __getitem__(self, key: str) -> Any:
        if key not in FIELDS:
            raise KeyError(key)
        return getattr(self, FIELDS[key])

    def __iter__(self) -> Iterator[str]:
        return iter(FIELDS)

    def __len__(self) -> int:
        return len(FIELDS)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds for this split."""
        return dict(self)

    def headline(self) -> dict[str, Any]:
        """Return what a bundle holds for this split: everything but the matrix and the bins."""
        return {key: value for key, value in self.items() if key not in _LONG}


_KEYS = {"macro_avg": "macro avg", "weighted_avg": "weighted avg"}
FIELDS = {_KEYS.get(item.name, item.name): item.name for item in fields(SplitMetrics)}
"""Attribute of each key of the file, in the file's order."""

_LONG = frozenset({"confusion_matrix", "reliability", "reliability_calibrated"})
