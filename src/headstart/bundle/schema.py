"""What ``config.json`` of a saved classifier may hold, and in which words a wrong one is refused."""

import json
import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.contracts import Fit, Interpolation
from headstart.data.preprocess import Preprocess, rgb
from headstart.errors import DataError
from headstart.explain import explain
from headstart.tasks.confidence import COUNTS, EDGES, Confidence
from headstart.tasks.measures import wilson_interval
from headstart.tasks.read import Shown, read_record
from headstart.wording import percent, percent_range, percent_short

LARGEST_SIZE = 4096
"""Height and width of the network's input, in pixels; with more, one image would take gigabytes."""
_WIDEST = 2**20
_MOST_PROBLEMS = 4
"""How many wrong keys a message tells."""
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _square(size: list[int]) -> list[int]:
    if size[0] != 3 or size[1] != size[2]:
        raise ValueError("not three channels of a square")
    return size


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    json.dumps(value, allow_nan=False)  # NaN and infinity are no JSON
    return value


def _as_shown(value: dict[str, Any]) -> dict[str, Any]:
    read_record(Shown, value)
    return value


def _counted(value: dict[str, Any] | None) -> dict[str, Any] | None:
    read_record(dict[str, int], (value or {}).get("images", {}))
    return value


Count = Annotated[int, Field(ge=1, description="a whole number, at least 1")]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
_Mean = Annotated[
    list[Annotated[float, Field(ge=0, le=1)]],
    Field(min_length=3, max_length=3, description="three numbers from 0 to 1"),
]
_Deviations = Annotated[
    list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3, description="three numbers above 0")
]
_Kernel = Annotated[Interpolation, Field(description="bilinear or bicubic")]
_Crop = Annotated[float, Field(ge=0.01, le=1, description="a number from 0.01 to 1")]
Plain = Annotated[dict[str, Any], AfterValidator(_plain), Field(description="a mapping of plain, finite values")]


class AnySize(BaseModel):
    """Block ``model_args``: what makes timm build a vision transformer that takes any image size."""

    model_config = _STRICT

    dynamic_img_size: Annotated[Literal[True], Field(description="true")]
    img_size: Annotated[list[Side], Field(min_length=2, max_length=2, description="[height, width]")]


class ImageBlock(BaseModel):
    """Block ``pretrained_cfg``: how images are prepared, under timm's names."""

    model_config = _STRICT

    num_classes: Count
    input_size: Annotated[
        list[Side],
        Field(min_length=3, max_length=3, description=f"[3, size, size] with a size of at most {LARGEST_SIZE}"),
        AfterValidator(_square),
    ]
    mean: _Mean
    std: _Deviations
    interpolation: _Kernel
    crop_pct: _Crop
    crop_mode: Annotated[
        Literal["center", "border", "squash"] | None, Field(description="center, border or squash")
    ] = None
    fixed_input_size: Any = None
    first_conv: Any = None
    classifier: Any = None


class ImageRule(BaseModel):
    """Block ``image`` of an export: how an image becomes a square, and what the graph makes of that.

    Attributes:
        size: Side of the network's input, in pixels; the graph resizes squares to it.
        side: Largest side of a square, in pixels; larger images are reduced before.
        fit: How an image that is not square becomes one.
        interpolation: Kernel of every resize.
        crop_pct: Share of the square's side that the network sees, from the centre.
        mean: Mean per channel (RGB) in [0, 1]; the graph subtracts it, and borders of padded images have it.
        std: Standard deviation per channel; the graph divides by it.
    """

    model_config = _STRICT

    size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
    side: Annotated[int, Field(ge=1, le=100 * LARGEST_SIZE)]
    fit: Fit
    interpolation: _Kernel
    crop_pct: _Crop
    mean: _Mean
    std: _Deviations


def preprocess_of(image: ImageBlock | ImageRule, size: int, fit: Fit) -> Preprocess:
    """Return what a block says about images, with the size of the network's input in pixels."""
    return Preprocess(size, rgb(image.mean), rgb(image.std), image.interpolation, image.crop_pct, fit)


class Abstention(BaseModel):
    """Block ``headstart.abstention``: from which probability a prediction counts as sure.

    Attributes:
        target: Accuracy that sure predictions reach on validation.
        threshold: Calibrated probability from which a prediction is sure; None where no threshold reaches the target,
            and no prediction is sure.
        answered: Validation images whose prediction is sure; None for classifiers of early versions, like the next.
        right: How many of these predictions are right.
    """

    model_config = _STRICT

    target: Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
    threshold: Annotated[float | None, Field(ge=0, le=1, description="a number from 0 to 1, or null")]
    answered: Annotated[int | None, Field(ge=0, description="a whole number, or null")] = None
    right: Annotated[int | None, Field(ge=0, description="a whole number up to answered, or null")] = None

    @model_validator(mode="after")
    def _no_more_right(self) -> "Abstention":
        if (self.right or 0) > (self.answered or 0):
            raise ValueError("more right than answered")
        return self

    def unsure(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Return which predictions are unsure, shape (n,), for probabilities of shape (n, classes)."""
        lowest = np.inf if self.threshold is None else self.threshold
        return np.asarray(probabilities.max(axis=1, initial=0) < lowest, np.bool_)

    @property
    def meaning(self) -> str:
        """What makes a prediction unsure, and what was measured of the sure ones, as a clause.

        Example:
            >>> Abstention(target=0.95, threshold=0.8, answered=147, right=140).meaning.split("; ")[1]
            'at or above that, 95.2% were right on validation (95% interval 90.5% to 97.7%)'
            >>> Abstention(target=0.95, threshold=None).meaning
            'at no probability were 95% of the predictions right on validation'
        """
        if self.threshold is None:
            return f"at no probability were {percent_short(self.target)} of the predictions right on validation"
        # Rounded down, since 100% would be no limit.
        below = f"its probability is below {percent_short(math.floor(self.threshold * 1e4) / 1e4)}"
        if not self.answered or self.right is None:
            return below
        interval = percent_range(wilson_interval(self.right, self.answered), 1)
        share = percent(self.right / self.answered, 1)
        return f"{below}; at or above that, {share} were right on validation (95% interval {interval})"


class OwnBlock(BaseModel):
    """Block ``headstart``: what timm has no place for."""

    model_config = _STRICT

    format: Count
    version: Annotated[str, Field(description="a text")]
    backbone: Annotated[str, Field(description="a name")]
    hidden: Annotated[
        list[Annotated[int, Field(ge=1, le=_WIDEST)]],
        Field(description=f"a list of layer widths, each from 1 to {_WIDEST:,}"),
    ]
    dropout: Annotated[float, Field(ge=0, lt=1, description="a number from 0 to below 1")]
    temperature: Annotated[float, Field(gt=0, description="a number above 0")]
    flip: Annotated[bool, Field(description="true or false")]
    fit: Annotated[Fit, Field(description="crop, pad or stretch")] = "crop"
    dataset: Annotated[str, Field(description="a name")]
    manifest_sha256: Annotated[str, Field(description="a SHA-256")]
    weights: Plain
    metrics: Annotated[
        Plain,
        AfterValidator(_as_shown),
        Field(description="a mapping of plain, finite values, in which val and test have figures as metrics.json"),
    ]
    abstention: Annotated[
        Abstention | None, Field(description="a mapping in which right is no larger than answered")
    ] = None
    data: Annotated[
        Plain | None, AfterValidator(_counted), Field(description="a mapping, in which images counts those of a split")
    ] = None
    novelty: Annotated[bool, Field(description="true or false")] = False
    confidence: Annotated[
        Confidence | None, Field(description=f"a mapping of edges, {EDGES}, and counts, {COUNTS}")
    ] = None


class ConfigFile(BaseModel):
    """The whole of ``config.json``."""

    model_config = _STRICT

    # A name with a colon or a slash would send timm to the network or to another folder.
    architecture: Annotated[str, Field(pattern=r"^\w+$", description="a plain architecture name")]
    num_classes: Count
    label_names: Annotated[list[str], Field(description="a list of names")]
    pretrained_cfg: Annotated[ImageBlock, Field(description="a mapping")]
    headstart: Annotated[OwnBlock, Field(description="a mapping")]
    num_features: Any = None
    global_pool: Any = None
    model_args: Annotated[
        AnySize | None, Field(description='{"dynamic_img_size": true, "img_size": [height, width]}')
    ] = None


def refused(error: ValidationError | DataError, model: type[BaseModel], content: object) -> str:
    """Return what is wrong with a configuration or with its class names, in sentences."""
    if isinstance(error, DataError):
        return f"label_names: {error}"
    unknown = " It may change what the classifier does."
    return f"{'; '.join(explain(error, model, content, most=_MOST_PROBLEMS, unknown=lambda *_: unknown))}."
