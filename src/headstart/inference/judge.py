"""From the outputs of a classifier to calibrated predictions, their doubts, and where their evidence lies."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import Predictions, UInt8Image
from headstart.data.preprocess import Preprocess
from headstart.inference.artifact import Artifact, Outputs
from headstart.tasks.calibration import probabilities as calibrated

Box = tuple[float, float, float, float]
"""Part of an image: top, left, height and width, in shares of the image's height and width."""


@dataclass(frozen=True)
class Evidence:
    """Where the evidence for the most probable class lies in an image.

    Attributes:
        grid: Rows of values from 0 to 1, the largest; all 0 where nothing speaks for the class.
        box: Part of the image that the grid covers; it reaches beyond the image where that was padded.
    """

    grid: list[list[float]]
    box: Box


@dataclass(frozen=True)
class FilePrediction:
    """The prediction for an image file.

    Attributes:
        label: Name of the most probable class.
        probability: Calibrated probability of that class.
        top: Every class as (name, probability), best first.
        unsure: Whether the probability is too low to be relied on; None where the classifier has no threshold.
        novelty: How unlike the training images the image is; None where that was not measured, like the next.
        unfamiliar: Whether it is too unlike them.
        evidence: Where the evidence for that class lies; None where it was not asked for.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    unsure: bool | None = None
    novelty: float | None = None
    unfamiliar: bool | None = None
    evidence: Evidence | None = None

    def row(self, top: int) -> dict[str, Any]:
        """Return the prediction as JSON has it, with so many classes; doubts that were not measured are None."""
        novelty = self.novelty if self.novelty is None or math.isfinite(self.novelty) else None
        best = [list(pair) for pair in self.top[:top]]
        doubts = {"unsure": self.unsure, "unfamiliar": self.unfamiliar, "novelty": novelty}
        return {"label": self.label, "probability": self.probability, "top": best, **doubts}


def box_in_shares(preprocess: Preprocess, image: UInt8Image) -> Box:
    """Return which part of an image the network sees."""
    height, width = image.shape[:2]
    top, left, tall, wide = preprocess.box(height, width)
    return top / height, left / width, tall / height, wide / width


def why_no_evidence(artifact: Artifact) -> str:
    """Return why a classifier can't tell where the evidence lies; nothing where it can."""
    if artifact.has_evidence:
        return ""
    return (
        f"This classifier can't show where the evidence lay: {artifact.architecture} does not average over the places "
        "of an image before a linear head, or it was exported by an earlier version of headstart."
    )


def judged(outputs: Outputs, artifact: Artifact) -> tuple[Predictions, NDArray[np.bool_]]:
    """Return calibrated predictions with their doubts, and which of them are finite, shape (n,)."""
    probabilities = outputs.probabilities
    if probabilities is None:
        with np.errstate(all="ignore"):
            probabilities = calibrated(outputs.logits, temperature=artifact.temperature)
    abstention, limit = artifact.abstention, artifact.novelty_threshold
    unsure = unfamiliar = None
    if abstention is not None:
        unsure = abstention.unsure(probabilities)
    if limit is not None and outputs.novelty is not None:
        unfamiliar = outputs.novelty > limit
    evidence = None if outputs.evidence is None else shares(outputs.evidence)
    predictions = Predictions(probabilities, artifact.class_names, unsure, outputs.novelty, unfamiliar, evidence)
    return predictions, np.asarray(np.isfinite(probabilities).all(axis=1), np.bool_)


def shares(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return maps of evidence, shape (n, rows, columns), from 0 to 1, the largest value of each; 0 for what opposes."""
    found: NDArray[np.float32] = np.maximum(maps, 0)
    found /= np.maximum(found.max(axis=(1, 2), keepdims=True), np.float32(1e-12))
    return found
