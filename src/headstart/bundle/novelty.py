"""How unlike the training images an image is: a score from the features that the head sees, and its file.

``novelty.safetensors`` lies beside the weights and is complete in itself: its tensors are float16, and its metadata say
what to compute with them. The score is a few matrix operations, so that an exported classifier can hold it:

    knn            reference (m, d), rows of length 1:
                   1 - the k-th largest entry of (features / |features|) @ reference.T
    mahalanobis    projection (d, r) and means (classes, r):
                   the smallest distance of (features / |features|) @ projection to a row of means

An image counts as unfamiliar when its score exceeds the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headstart.errors import BundleError
from headstart.files import write_atomically

NOVELTY_FILE = "novelty.safetensors"
Method = Literal["knn", "mahalanobis"]
_FORMAT = "1"
_TENSORS: dict[Method, tuple[str, ...]] = {"knn": ("reference",), "mahalanobis": ("projection", "means")}


@dataclass(frozen=True)
class Novelty:
    """A novelty score with its threshold.

    Attributes:
        method: How the score is computed.
        tensors: What it is computed with, by name.
        threshold: Score above which an image counts as unfamiliar.
        false_alarms: Share of the validation images whose score exceeds the threshold.
        neighbours: The k of ``knn``; 1 otherwise.
    """

    method: Method
    tensors: Mapping[str, Tensor] = field(repr=False)
    threshold: float
    false_alarms: float
    neighbours: int = 1

    def to(self, device: torch.device) -> "Novelty":
        """Return the same score, ready to be computed on a device in float32."""
        moved = {name: tensor.to(device, torch.float32) for name, tensor in self.tensors.items()}
        return Novelty(self.method, moved, self.threshold, self.false_alarms, self.neighbours)

    def score(self, features: Tensor) -> Tensor:
        """Return the scores, shape (n,), of features of shape (n, d), float32; the larger, the less familiar."""
        directions = F.normalize(features, dim=1)
        if self.method == "knn":
            similarities = directions @ self.tensors["reference"].T
            return 1 - similarities.topk(self.neighbours, dim=1).values[:, -1]
        return torch.cdist(directions @ self.tensors["projection"], self.tensors["means"]).amin(dim=1)


def write_novelty(folder: Path, novelty: Novelty) -> None:
    """Write the score's file into a bundle's folder.

    Raises:
        OSError: It can't be written.
    """
    facts = {
        "format": _FORMAT,
        "method": novelty.method,
        "neighbours": str(novelty.neighbours),
        "threshold": repr(novelty.threshold),
        "false_alarms": repr(novelty.false_alarms),
    }
    tensors = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in novelty.tensors.items()}
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
    method = next((known for known in get_args(Method) if known == facts["method"]), None)
    if method is None or set(tensors) != set(_TENSORS[method]):
        raise ValueError(f"method {facts['method']!r} with tensors {sorted(tensors)}")
    if any(tensor.ndim != 2 or not torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("a tensor is no finite matrix")
    neighbours, threshold, share = int(facts["neighbours"]), float(facts["threshold"]), float(facts["false_alarms"])
    if not (abs(threshold) < float("inf") and 0 <= share <= 1):
        raise ValueError("a number is out of range")
    if method == "knn" and not 1 <= neighbours <= len(tensors["reference"]):
        raise ValueError(f"{neighbours} neighbours of {len(tensors['reference'])}")
    if method == "mahalanobis" and tensors["means"].shape != (num_classes, tensors["projection"].shape[1]):
        raise ValueError("its classes are not the classifier's")
    return Novelty(method, tensors, threshold, share, neighbours)
