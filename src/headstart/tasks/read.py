"""What files hold, checked as it is read; apart from ``metrics``, since the commands must not wait for pydantic."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from headstart.explain import explain
from headstart.tasks.metrics import FIELDS, SplitMetrics

_T = TypeVar("_T")
_STRICT = ConfigDict(strict=True)
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Interval = Annotated[list[_Share], Field(min_length=2, max_length=2)]


class _CheckedFigures(BaseModel):
    model_config = _STRICT

    precision: _Share
    recall: _Share
    f1_score: _Share = Field(alias="f1-score")
    support: _Count


class _CheckedBin(BaseModel):
    model_config = _STRICT

    lower: _Share
    upper: _Share
    n: _Count
    confidence: _Share | None
    accuracy: _Share | None
    accuracy_ci95: _Interval | None

    @model_validator(mode="after")
    def _has_means(self) -> "_CheckedBin":
        if self.n and None in (self.confidence, self.accuracy, self.accuracy_ci95):
            raise ValueError("a bin with images needs confidence, accuracy and accuracy_ci95")
        return self


class _CheckedSplit(BaseModel):
    model_config = _STRICT

    accuracy: _Share
    accuracy_ci95: _Interval
    n: Annotated[_Count, Field(ge=1)]
    macro_f1: _Share
    nll: _Amount
    nll_calibrated: _Amount
    ece: _Share
    ece_calibrated: _Share
    ece_bins: Annotated[_Count, Field(ge=1)]
    per_class: dict[str, _CheckedFigures] = Field(min_length=1)
    macro_avg: _CheckedFigures = Field(alias="macro avg")
    weighted_avg: _CheckedFigures = Field(alias="weighted avg")
    confusion_matrix: list[list[_Count]]
    reliability: list[_CheckedBin]
    reliability_calibrated: list[_CheckedBin]


class _ShownSplit(BaseModel):
    model_config = _STRICT

    accuracy: _Share | None = None
    accuracy_ci95: _Interval | None = None
    n: _Count | None = None
    macro_f1: _Share | None = None
    nll: _Amount | None = None
    nll_calibrated: _Amount | None = None
    ece: _Share | None = None
    ece_calibrated: _Share | None = None
    per_class: dict[str, _CheckedFigures] | None = None


class Shown(BaseModel):
    """What a model card shows of ``metrics.json``; what was not measured is missing."""

    model_config = _STRICT

    val: _ShownSplit | None = None
    test: _ShownSplit | None = None


def read_split(content: object) -> SplitMetrics:
    """Return the figures of a split from what ``SplitMetrics.to_dict`` gives; keys of later versions are left out.

    Raises:
        ValueError: Something is missing or wrong; the message names it, but not the file.
    """
    if not isinstance(content, Mapping):
        raise ValueError("the figures of a split must be an object")
    checked = read_record(_CheckedSplit, content)
    classes, rows = len(checked.per_class), checked.confusion_matrix
    if len(rows) != classes or any(len(row) != classes for row in rows):
        raise ValueError(f"confusion_matrix must have a row and a column for each of the {classes} classes")
    return SplitMetrics(**{name: content[key] for key, name in FIELDS.items()})


def read_record(kind: type[_T], content: object) -> _T:
    """Return a record of this kind, checked.

    Raises:
        ValueError: Something is missing or wrong; the message names it, but not the file.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, most=3))) from None
