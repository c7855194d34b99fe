"""How unlike the training images an image is: a score from what the head sees and what it makes of it, and its file.

``novelty.safetensors`` lies beside the weights and is complete in itself. The score is a few matrix operations, the
same ones in numpy and in torch. With ``direction = features / |features|``:

    centred      direction - centre
    residual     sqrt(|centred|^2 - |centred @ axes|^2)
    place        direction @ projection - middle
    mahalanobis  the smallest |place - mean|^2 over the rows of means, less the sum of weights * place^2
    energy       -log(sum(exp(logits)))
    score        the sum of (part - mean) / spread over residual, mahalanobis and energy

``scale`` holds mean and spread of these three, in this order.
An image counts as unfamiliar when its score exceeds the threshold.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import ThreadpoolController

from headstart.errors import BundleError, EarlierScoreError
from headstart.files import read_bounded, reading, write_atomically

NOVELTY_FILE = "novelty.safetensors"
_FORMAT, _EARLIER = "2", "1"
_LARGEST = 2**31
_LIMITED = Lock()
"""Held while one thread has set how many threads the whole process multiplies matrices with, until that is set back."""


@dataclass(frozen=True)
class Novelty:
    """A novelty score with its threshold.

    Attributes:
        arrays: ``centre`` (1, d), the mean direction of training images, and ``axes`` (d, a), along which they differ
            most; ``projection`` (d, r), ``middle`` (1, r), ``means`` (classes, r) and ``weights`` (1, r), the relative
            Mahalanobis distance; ``scale`` (3, 2). float32.
        threshold: Score above which an image counts as unfamiliar.
        false_alarms: Share of the validation images whose score exceeds the threshold.
    """

    arrays: Mapping[str, NDArray[np.float32]] = field(repr=False)
    threshold: float
    false_alarms: float

    def score(self, features: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores, shape (n,), for features (n, d) and logits (n, classes); the larger, the less familiar."""
        # Threads of two libraries that wait for work by spinning take the cores from each other.
        with _LIMITED, _linear_algebra().limit(limits=1, user_api="blas"):
            scores: NDArray[np.float32] = score_in(np, self.arrays, features, logits)
        return scores


def score_in(library: Any, arrays: Mapping[str, Any], features: Any, logits: Any) -> Any:
    """Return the scores, shape (n,), for features (n, d) and logits (n, classes), float32.

    ``library`` is ``numpy`` or ``torch``, whose names for what is used here are the same; all else is of its kind.
    """
    scale = arrays["scale"]
    return ((parts_in(library, arrays, features, logits) - scale[:, 0]) / scale[:, 1]).sum(1)


def parts_in(library: Any, arrays: Mapping[str, Any], features: Any, logits: Any) -> Any:
    """Return the three parts of the score, shape (n, 3): residual, mahalanobis and energy; see ``score_in``."""
    lengths = library.sqrt((features**2).sum(1))
    directions = features / lengths.clip(min=1e-12)[:, None]
    centred = directions - arrays["centre"]
    along = ((centred @ arrays["axes"]) ** 2).sum(1)
    residual = library.sqrt(((centred**2).sum(1) - along).clip(min=0))
    place, means = directions @ arrays["projection"] - arrays["middle"], arrays["means"]
    # |place - mean|^2, without an array of places by classes by discriminants.
    distances = (place**2).sum(1)[:, None] - 2 * (place @ means.T) + (means**2).sum(1)
    mahalanobis = library.amin(distances, 1).clip(min=0) - (arrays["weights"] * place**2).sum(1)
    largest = library.amax(logits, 1)
    energy = -largest - library.log(library.exp(logits - largest[:, None]).sum(1))
    return library.stack([residual, mahalanobis, energy], 1)


@cache
def _linear_algebra() -> ThreadpoolController:
    """Return what sets the number of threads that numpy multiplies matrices with."""
    return ThreadpoolController()


def write_novelty(folder: Path, novelty: Novelty) -> None:
    """Write the score's file into a classifier's folder.

    Raises:
        WriteError: It can't be written.
    """
    told = {"threshold": repr(novelty.threshold), "false_alarms": repr(novelty.false_alarms)}
    write_atomically(folder / NOVELTY_FILE, save(dict(novelty.arrays), metadata={"format": _FORMAT, **told}))


def read_novelty(folder: Path, *, num_classes: int, content: bytes | None = None) -> Novelty:
    """Read the score's file of a classifier.

    Args:
        folder: Of the classifier.
        num_classes: Its classes.
        content: Of the file, where it was read already, as that of an export is.

    Raises:
        EarlierScoreError: The file is of an earlier version.
        BundleError: The file is missing, damaged, of a later format, or does not fit the classifier.
    """
    path = folder / NOVELTY_FILE
    without = "set headstart.novelty in config.json to false to go without the flag 'unfamiliar'"
    remedy = f"Restore it, or {without if content is None else 'export the classifier again'}."
    with reading(path, BundleError, remedy):
        try:
            content = read_bounded(path, at_most=_LARGEST) if content is None else content
            tensors = load(content)
            # What safetensors has checked begins with the length of its head, which is JSON.
            facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
            if facts["format"] != _EARLIER:
                return _checked(facts, tensors, num_classes)
        except FileNotFoundError:
            told = "is missing, although config.json says that the classifier has it"
            raise BundleError(f"{path} {told}. {remedy}") from None
        except (SafetensorError, KeyError, ValueError) as error:
            raise BundleError(f"{path} is damaged or of another version ({str(error)[:80]}). {remedy}") from None
    raise EarlierScoreError(
        f"{path} was written by an earlier version, which scored novelty otherwise. Run headstart evaluate RUN, then "
        "export the classifier again."
    )


def _checked(facts: Mapping[str, str], tensors: Mapping[str, NDArray[Any]], num_classes: int) -> Novelty:
    """Return the score that a file describes; raise KeyError or ValueError for what does not fit together."""
    if facts["format"] != _FORMAT:
        raise ValueError(f"format {facts['format']!r}, but this version reads {_FORMAT}")
    threshold, share = float(facts["threshold"]), float(facts["false_alarms"])
    shapes = {name: tuple(part.shape) for name, part in tensors.items()}
    (features, depth), (_, width) = shapes["axes"], shapes["projection"]
    wanted = {"centre": (1, features), "axes": (features, depth), "projection": (features, width)}
    wanted |= {"means": (num_classes, width), "middle": (1, width), "weights": (1, width), "scale": (3, 2)}
    if shapes != wanted or not all(np.isfinite(part).all() for part in tensors.values()):
        raise ValueError("its tensors do not fit together, or not the classifier's classes")
    in_range = abs(threshold) < float("inf") and 0 <= share <= 1
    if not (in_range and (tensors["scale"][:, 1] > 0).all()):
        raise ValueError("a number is out of range")
    whole = {name: part.astype(np.float32, copy=False) for name, part in tensors.items()}
    return Novelty(whole, threshold, share)
