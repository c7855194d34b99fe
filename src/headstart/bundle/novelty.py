"""The novelty score on torch; ``novelty_file`` says how it is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from headstart.bundle.novelty_file import NoveltyArrays, parts_of_score, read_arrays, score, write_arrays


@dataclass(frozen=True)
class Novelty:
    """A novelty score with its threshold.

    Attributes:
        tensors: ``centre`` (1, d), the mean direction of training images, and ``axes`` (d, a), along which they differ
            most; ``projection`` (d, r), ``middle`` (1, r), ``means`` (classes, r) and ``weights`` (1, r), the relative
            Mahalanobis distance; ``scale`` (3, 2).
        threshold: Score above which an image counts as unfamiliar.
        false_alarms: Share of the validation images whose score exceeds the threshold.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    threshold: float = 0.0
    false_alarms: float = 0.0

    def to(self, device: torch.device) -> "Novelty":
        """Return the same score, ready to be computed on a device in float32."""
        return replace(self, tensors={name: part.to(device, torch.float32) for name, part in self.tensors.items()})

    def parts(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the three parts of the score, shape (n, 3), for features (n, d) and logits (n, classes), float32."""
        found: Tensor = parts_of_score(torch, self.tensors, features, logits)
        return found

    def score(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return the scores, shape (n,), for features (n, d) and logits (n, classes); the larger, the less familiar."""
        found: Tensor = score(torch, self.tensors, features, logits)
        return found

    def arrays(self) -> NoveltyArrays:
        """Return the same score without torch."""
        parts = {name: part.to("cpu", torch.float32).contiguous().numpy() for name, part in self.tensors.items()}
        return NoveltyArrays(parts, self.threshold, self.false_alarms)


def write_novelty(folder: Path, novelty: Novelty) -> None:
    """Write the score's file into a bundle's folder.

    Raises:
        OSError: It can't be written.
    """
    write_arrays(folder, novelty.arrays())


def read_novelty(folder: Path, *, num_classes: int) -> Novelty:
    """Read the score's file of a bundle; see ``read_arrays``."""
    found = read_arrays(folder, num_classes=num_classes)
    tensors = {name: torch.from_numpy(part) for name, part in found.parts.items()}
    return Novelty(tensors, found.threshold, found.false_alarms)
