"""How unlike the training images an image is: a score from the features that the head sees, and its file.

``novelty.safetensors`` lies beside the weights and is complete in itself. The score is a few matrix operations, which
``novelty_file`` has in numpy as well. With ``direction = features / |features|``:

    alone      1 - the k-th largest entry of (direction @ axes) @ reference.T
    place      direction @ projection - middle
    misplaced  the smallest |place - mean|^2 over the rows of means, minus the sum of weights * place^2
    score      (alone - scale[0, 0]) / scale[0, 1] + (misplaced - scale[1, 0]) / scale[1, 1]

An image counts as unfamiliar when its score exceeds the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.bundle.novelty_file import NoveltyArrays, read_arrays, write_arrays


@dataclass(frozen=True)
class Novelty:
    """A novelty score with its threshold.

    Attributes:
        tensors: ``axes`` (d, a), the axes along which directions of training images vary most, and ``reference``
            (m, a), such directions along them; ``projection`` (d, r), ``middle`` (1, r), ``means`` (classes, r) and
            ``weights`` (1, r), the relative Mahalanobis distance; ``scale`` (2, 2).
        neighbours: The k of the k-th nearest neighbour.
        threshold: Score above which an image counts as unfamiliar.
        false_alarms: Share of the validation images whose score exceeds the threshold.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    neighbours: int
    threshold: float = 0.0
    false_alarms: float = 0.0

    def to(self, device: torch.device) -> "Novelty":
        """Return the same score, ready to be computed on a device in float32."""
        return replace(self, tensors={name: part.to(device, torch.float32) for name, part in self.tensors.items()})

    def parts(self, features: Tensor) -> Tensor:
        """Return distance to the neighbours and distance to the classes, shape (n, 2), for features (n, d)."""
        directions = F.normalize(features, dim=1)
        likeness = directions @ self.tensors["axes"] @ self.tensors["reference"].T
        alone = 1 - likeness.topk(self.neighbours, dim=1).values[:, -1]
        place = directions @ self.tensors["projection"] - self.tensors["middle"]
        nearest = torch.cdist(place, self.tensors["means"]).amin(dim=1).square()
        return torch.stack([alone, nearest - (self.tensors["weights"] * place.square()).sum(dim=1)], dim=1)

    def score(self, features: Tensor) -> Tensor:
        """Return the scores, shape (n,), of features of shape (n, d), float32; the larger, the less familiar."""
        scale = self.tensors["scale"]
        return ((self.parts(features) - scale[:, 0]) / scale[:, 1]).sum(dim=1)

    def arrays(self) -> NoveltyArrays:
        """Return the same score without torch; the reference as float16, the rest as float32."""
        parts = {
            name: part.to("cpu", torch.float16 if name == "reference" else torch.float32).contiguous().numpy()
            for name, part in self.tensors.items()
        }
        return NoveltyArrays(parts, self.neighbours, self.threshold, self.false_alarms)


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
    return Novelty(tensors, found.neighbours, found.threshold, found.false_alarms)
