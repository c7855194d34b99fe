"""The file of a novelty score, and the score in numpy; ``novelty`` says how it is computed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
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


@dataclass(frozen=True)
class NoveltyArrays:
    """A novelty score with its threshold, without torch.

    Attributes:
        parts: As ``Novelty.tensors``, float32.
        threshold: Score above which an image counts as unfamiliar.
        false_alarms: Share of the validation images whose score exceeds the threshold.
    """

    parts: Mapping[str, NDArray[np.float32]] = field(repr=False)
    threshold: float
    false_alarms: float

    def score(self, features: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores, shape (n,), for features (n, d) and logits (n, classes); the larger, the less familiar."""
        # Threads of two libraries that wait for work by spinning take the cores from each other.
        with _linear_algebra().limit(limits=1, user_api="blas"):
            return self._score(features, logits)

    def _score(self, features: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = self.parts
        directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))
        centred = directions - parts["centre"]
        along = ((centred @ parts["axes"]) ** 2).sum(axis=1)
        residual = np.sqrt(np.maximum((centred**2).sum(axis=1) - along, 0))
        place = directions @ parts["projection"] - parts["middle"]
        nearest = ((place[:, None] - parts["means"]) ** 2).sum(axis=2).min(axis=1)
        mahalanobis = nearest - (parts["weights"] * place**2).sum(axis=1)
        largest = logits.max(axis=1)
        energy = -largest - np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        scale = parts["scale"]
        found = np.stack([residual, mahalanobis, energy], axis=1)
        scores: NDArray[np.float32] = ((found - scale[:, 0]) / scale[:, 1]).sum(axis=1)
        return scores


@cache
def _linear_algebra() -> ThreadpoolController:
    """Return what sets the number of threads that numpy multiplies matrices with."""
    return ThreadpoolController()


def write_arrays(folder: Path, novelty: NoveltyArrays) -> None:
    """Write the score's file into a classifier's folder.

    Raises:
        OSError: It can't be written.
    """
    told = {"threshold": repr(novelty.threshold), "false_alarms": repr(novelty.false_alarms)}
    write_atomically(folder / NOVELTY_FILE, save(dict(novelty.parts), metadata={"format": _FORMAT, **told}))


def read_arrays(folder: Path, *, num_classes: int, content: bytes | None = None) -> NoveltyArrays:
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
            facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
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


def _checked(facts: Mapping[str, str], tensors: Mapping[str, NDArray[Any]], num_classes: int) -> NoveltyArrays:
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
    return NoveltyArrays(whole, threshold, share)
