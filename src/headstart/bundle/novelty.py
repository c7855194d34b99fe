"""How unlike the training images an image is: a score from the features that the head sees, and its file.

``novelty.safetensors`` lies beside the weights and is complete in itself. The score is a few matrix operations, so that
an exported classifier can hold it. With ``direction = features / |features|``:

    alone      1 - the k-th largest entry of direction @ reference.T
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headstart.errors import BundleError
from headstart.files import write_atomically

NOVELTY_FILE = "novelty.safetensors"
_FORMAT = "1"


@dataclass(frozen=True)
class Novelty:
    """A novelty score with its threshold.

    Attributes:
        tensors: ``reference`` (m, d), the directions of training images; ``projection`` (d, r), ``middle`` (1, r),
            ``means`` (classes, r) and ``weights`` (1, r), the relative Mahalanobis distance; ``scale`` (2, 2).
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
        alone = 1 - (directions @ self.tensors["reference"].T).topk(self.neighbours, dim=1).values[:, -1]
        place = directions @ self.tensors["projection"] - self.tensors["middle"]
        nearest = torch.cdist(place, self.tensors["means"]).amin(dim=1).square()
        return torch.stack([alone, nearest - (self.tensors["weights"] * place.square()).sum(dim=1)], dim=1)

    def score(self, features: Tensor) -> Tensor:
        """Return the scores, shape (n,), of features of shape (n, d), float32; the larger, the less familiar."""
        scale = self.tensors["scale"]
        return ((self.parts(features) - scale[:, 0]) / scale[:, 1]).sum(dim=1)


def write_novelty(folder: Path, novelty: Novelty) -> None:
    """Write the score's file into a bundle's folder; the reference is stored as float16, the rest as float32.

    Raises:
        OSError: It can't be written.
    """
    facts = {"format": _FORMAT, "neighbours": str(novelty.neighbours)}
    facts |= {"threshold": repr(novelty.threshold), "false_alarms": repr(novelty.false_alarms)}
    tensors = {
        name: part.to("cpu", torch.float16 if name == "reference" else torch.float32).contiguous()
        for name, part in novelty.tensors.items()
    }
    write_atomically(folder / NOVELTY_FILE, save(tensors, metadata=facts))


def read_novelty(folder: Path, *, num_classes: int) -> Novelty:
    """Read the score's file of a bundle.

    Raises:
        BundleError: The file is missing, damaged, of a later format, or does not fit the classifier.
    """
    path = folder / NOVELTY_FILE
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return _checked(facts, tensors, num_classes)
    except FileNotFoundError:
        problem = "is missing, although config.json says that the classifier has it"
    except OSError as error:
        problem = f"can't be read: {error.strerror or error}"
    except MemoryError:
        problem = "can't be read: it does not fit into memory"
    except (SafetensorError, KeyError, ValueError) as error:
        problem = f"is damaged or of another version ({str(error)[:80]})"
    raise BundleError(
        f"{path} {problem}. Restore it, or set headstart.novelty in config.json to false to go without the flag "
        "'unfamiliar'."
    )


def _checked(facts: Mapping[str, str], tensors: Mapping[str, Tensor], num_classes: int) -> Novelty:
    """Return the score that a file describes; raise KeyError or ValueError for what does not fit together."""
    if facts["format"] != _FORMAT:
        raise ValueError(f"format {facts['format']!r}, but this version reads {_FORMAT}")
    neighbours, threshold, share = int(facts["neighbours"]), float(facts["threshold"]), float(facts["false_alarms"])
    shapes = {name: tuple(part.shape) for name, part in tensors.items()}
    (rows, features), (_, width) = shapes["reference"], shapes["projection"]
    wanted = {"reference": (rows, features), "projection": (features, width), "means": (num_classes, width)}
    wanted |= {"middle": (1, width), "weights": (1, width), "scale": (2, 2)}
    if shapes != wanted or not all(torch.isfinite(part).all() for part in tensors.values()):
        raise ValueError("its tensors do not fit together, or not the classifier's classes")
    if not (abs(threshold) < float("inf") and 0 <= share <= 1 and 1 <= neighbours <= rows):
        raise ValueError("a number is out of range")
    return Novelty(tensors, neighbours, threshold, share)
