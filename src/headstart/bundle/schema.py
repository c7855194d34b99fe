"""What ``config.json`` of a saved classifier may hold, and in which words a wrong one is refused."""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.contracts import Fit, Interpolation
from headstart.errors import nearest
from headstart.tasks.confidence import Confidence

LARGEST_SIZE = 4096
"""Height and width of the network's input, in pixels; with more, one image would take gigabytes."""
_WIDEST = 2**20
_LONGEST_VALUE = 80
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _square(size: list[int]) -> list[int]:
    if size[0] != 3 or size[1] != size[2]:
        raise ValueError("not three channels of a square")
    return size


def _rising(edges: list[float]) -> list[float]:
    if any(after <= before for before, after in pairwise(edges)):
        raise ValueError("not rising")
    return edges


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    json.dumps(value, allow_nan=False)  # NaN and infinity are no JSON
    return value


_EDGES, _COUNTS = "rising numbers from 0 to 1", "whole numbers, one more than edges"
Count = Annotated[int, Field(ge=1, description="a whole number, at least 1")]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
Three = Annotated[list[float], Field(min_length=3, max_length=3, description="three numbers")]
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
    mean: Three
    std: Annotated[
        list[Annotated[float, Field(gt=0)]],
        Field(min_length=3, max_length=3, description="three numbers above 0"),
    ]
    interpolation: Annotated[Interpolation, Field(description="bilinear or bicubic")]
    crop_pct: Annotated[float, Field(gt=0, le=1, description="a number above 0 and up to 1")]
    crop_mode: Annotated[
        Literal["center", "border", "squash"] | None, Field(description="center, border or squash")
    ] = None
    fixed_input_size: Any = None
    first_conv: Any = None
    classifier: Any = None


class AbstentionBlock(BaseModel):
    """Block ``headstart.abstention``: from which probability a prediction counts as sure."""

    model_config = _STRICT

    target: Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
    threshold: Annotated[float | None, Field(ge=0, le=1, description="a number from 0 to 1, or null")]
    answered: Annotated[int | None, Field(ge=0, description="a whole number, or null")] = None
    right: Annotated[int | None, Field(ge=0, description="a whole number up to answered, or null")] = None

    @model_validator(mode="after")
    def _no_more_right(self) -> "AbstentionBlock":
        if (self.right or 0) > (self.answered or 0):
            raise ValueError("more right than answered")
        return self


class ConfidenceBlock(BaseModel):
    """Block ``headstart.confidence``: how sure the classifier was on validation."""

    model_config = _STRICT

    edges: Annotated[list[Annotated[float, Field(ge=0, le=1)]], AfterValidator(_rising), Field(description=_EDGES)]
    counts: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, description=_COUNTS)]

    @model_validator(mode="after")
    def _one_more(self) -> "ConfidenceBlock":
        if len(self.counts) != len(self.edges) + 1 or not sum(self.counts):
            raise ValueError("not one count more than edges, or no image")
        return self

    @classmethod
    def of(cls, content: Confidence) -> "ConfidenceBlock":
        """Return the block of a distribution."""
        return cls(edges=list(content.edges), counts=list(content.counts))

    @property
    def content(self) -> Confidence:
        """What the block stands for."""
        return Confidence(tuple(self.edges), tuple(self.counts))


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
    metrics: Plain
    abstention: Annotated[
        AbstentionBlock | None, Field(description="a mapping in which right is no larger than answered")
    ] = None
    data: Annotated[Plain | None, Field(description="a mapping")] = None
    novelty: Annotated[bool, Field(description="true or false")] = False
    confidence: Annotated[
        ConfidenceBlock | None, Field(description=f"a mapping of edges, {_EDGES}, and counts, {_COUNTS}")
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


def explain(error: ValidationError, config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a configuration, one sentence for each key."""
    told: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        keys = _keys(problem["loc"])
        where = ".".join(keys)
        block = _block(keys[:-1])
        if problem["type"] == "missing":
            told[where] = f"{where} missing."
        elif problem["type"] == "extra_forbidden":
            known = sorted(block.model_fields)
            told[where] = (
                f"unknown key '{cut(where)}', which may change what the classifier does."
                f"{nearest(keys[-1], known)} Known: {', '.join(known)}."
            )
        else:
            value: Any = config
            for key in keys:
                value = value[key]
            wanted = block.model_fields[keys[-1]].description
            told[where] = f"{where} must be {wanted}, but is {cut(repr(value))}."
    return list(told.values())


def cut(text: str) -> str:
    """Return a text that a message can show; the rest of a long one is left out."""
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the part of an error's location that names a key, without places in a list."""
    keys: list[str] = []
    for part in location:
        if not isinstance(part, str):
            break
        keys.append(part)
    return keys


_BLOCKS: dict[str, type[BaseModel]] = {
    "pretrained_cfg": ImageBlock,
    "headstart": OwnBlock,
    "headstart.abstention": AbstentionBlock,
    "headstart.confidence": ConfidenceBlock,
    "model_args": AnySize,
}


def _block(keys: list[str]) -> type[BaseModel]:
    return _BLOCKS[".".join(keys)] if keys else ConfigFile
