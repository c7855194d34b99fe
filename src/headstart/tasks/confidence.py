"""How sure a classifier was on validation, and how far from that it is on images that come later.

Accuracy can't be watched where nobody labels images. That a classifier is less sure than it was, or more, can be, and
tells that the images are others than those it was measured on.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FEWEST = 100
"""Validation images with which there is a reference; with fewer, chance would look like drift."""
_BINS = 10
EDGES, COUNTS = "rising numbers from 0 to 1", "whole numbers, one more than edges"
"""What the values must be, for errors."""
_SATURATED = 0.9999
"""Probabilities above count as one: they differ between processors by less than they are rounded by."""


def _rising(edges: list[float]) -> list[float]:
    if any(after <= before for before, after in pairwise(edges)):
        raise ValueError("not rising")
    return edges


class Confidence(BaseModel):
    """Distribution of the probabilities of the predicted classes on validation; block ``headstart.confidence``.

    Attributes:
        edges: Calibrated probabilities between the bins, rising; at most nine, with about as many images between each.
        counts: Validation images in each bin, one more than edges. What lies on an edge is in the bin above it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    edges: Annotated[list[Annotated[float, Field(ge=0, le=1)]], AfterValidator(_rising), Field(description=EDGES)]
    counts: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, description=COUNTS)]

    @model_validator(mode="after")
    def _one_more(self) -> "Confidence":
        if len(self.counts) != len(self.edges) + 1 or not sum(self.counts):
            raise ValueError("not one count more than edges, or no image")
        return self

    def drift(self, confidence: NDArray[np.floating[Any]]) -> float:
        """Return the population stability index of other probabilities: 0 for the same distribution.

        Up to 0.1 counts as the same, and above 0.25 as another one; Siddiqi, 2006, "Credit Risk Scorecards".

        Args:
            confidence: Calibrated probabilities of the predicted classes, shape (n,), n at least 1.
        """
        counts = np.array([self.counts, _counted(self.edges, confidence)], np.float64) + 0.5
        expected, found = counts / counts.sum(axis=1, keepdims=True)
        return float(((found - expected) * np.log(found / expected)).sum())


def confidence_of(confidence: NDArray[np.floating[Any]]) -> Confidence | None:
    """Return the distribution of probabilities of predicted classes, shape (n,); None for fewer than ``FEWEST``."""
    if len(confidence) < FEWEST:
        return None
    shown = np.minimum(confidence.astype(np.float64), _SATURATED)
    between = np.quantile(shown, np.arange(1, _BINS) / _BINS).round(6)
    edges = [float(edge) for edge in np.unique(between) if edge > shown.min()]
    return Confidence(edges=edges, counts=_counted(edges, confidence))


def _counted(edges: Sequence[float], confidence: NDArray[np.floating[Any]]) -> list[int]:
    shown = np.minimum(confidence.astype(np.float64), _SATURATED)
    counts: list[int] = np.bincount(np.searchsorted(edges, shown, side="right"), minlength=len(edges) + 1).tolist()
    return counts
