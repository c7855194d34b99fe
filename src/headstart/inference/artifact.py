"""What a Predictor computes with: a trained classifier in a form that is ready to run."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headstart.bundle.schema import Abstention
from headstart.contracts import ClassNames, UInt8Images
from headstart.data.preprocess import Preprocess
from headstart.tasks.confidence import Confidence

if TYPE_CHECKING:
    from headstart.bundle.novelty import Novelty


class Outputs(NamedTuple):
    """What one pass through a classifier gives for images.

    Attributes:
        logits: Outputs before temperature and softmax, float32, shape (n, classes).
        novelty: How unlike the training images each one is, float32, shape (n,); None where that was not measured.
        features: What the head sees, float32, shape (n, features); None where it was not asked for.
        probabilities: Calibrated probabilities, float32, shape (n, classes), where the artifact itself computes them;
            None where they are still to be computed from the logits.
        evidence: What each place of the image adds to the largest logit, float32, shape (n, rows, columns): its
            average, and the bias of the class, are that logit. None where it was not asked for.
    """

    logits: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None
    evidence: NDArray[np.float32] | None = None

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether logits and probabilities of each image are finite, shape (n,)."""
        told = [np.isfinite(part).all(axis=1) for part in (self.logits, self.probabilities) if part is not None]
        return np.asarray(np.logical_and.reduce(told), np.bool_)


class Artifact(Protocol):
    """A classifier that is ready to run, whatever computes it; safe to share between threads, and picklable.

    Attributes:
        class_names: Names of the classes, in the order of the outputs.
        preprocess: How images become squares.
        temperature: Number that divides the outputs before the softmax.
        flip: Whether the outputs for an image and its mirror image are averaged.
        abstention: From which probability a prediction is sure; None where that was not measured.
        confidence: How sure it was on validation; None where that was not measured.
        novelty_threshold: Novelty above which an image counts as unfamiliar; None where that was not measured.
        architecture: Name of the network.
        manifest_sha256: SHA-256 of the split manifest of the run that trained it.
        batch_size: Squares in one call that suit the device.
        threads: CPU threads to use at most; None where that was left open.
    """

    class_names: ClassNames
    preprocess: Preprocess
    temperature: float
    flip: bool
    abstention: Abstention | None
    confidence: Confidence | None
    novelty_threshold: float | None
    architecture: str
    manifest_sha256: str
    batch_size: int
    threads: int | None

    @property
    def has_evidence(self) -> bool:
        """Whether it can tell where the evidence for a class lies."""
        ...

    def outputs(self, squares: UInt8Images, *, features: bool = False, evidence: bool = False) -> Outputs:
        """Return what one pass gives, averaged over the mirror images where ``flip`` says so.

        Args:
            squares: uint8, shape (n, side, side, 3), as ``preprocess.square`` returns them.
            features: Return what the head sees as well.
            evidence: Return the evidence as well; only for what ``has_evidence``.
        """
        ...

    def set_novelty(self, novelty: "Novelty | None") -> None:
        """Score the novelty of images from now on as given, or not at all; before the artifact is shared."""
        ...


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Return the outputs of several passes as one."""
    if len(parts) == 1:
        return parts[0]
    return mapped([part for part in parts if len(part.logits)] or parts[:1], np.concatenate)


def mapped(parts: Sequence[Outputs], make: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> Outputs:
    """Return outputs of which each column is made from that column of all parts."""
    logits, *others = (None if column[0] is None else make(list(column)) for column in zip(*parts, strict=True))
    assert logits is not None
    return Outputs(logits, *others)
