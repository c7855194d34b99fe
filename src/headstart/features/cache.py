"""Features of a frozen backbone: computed once and kept on disk, under a key that holds all that decides them."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.compute.device import describe_hardware
from headstart.data.array_file import Stored
from headstart.data.arrays import BLOCK, release
from headstart.data.batches import evaluation_batches
from headstart.data.kept_array import KeptArray
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Squares
from headstart.home import cache_of
from headstart.models import fold, heads
from headstart.models.heads import head_of, pooled_features

CACHE_BYTES = 4 * 10**9
"""Features of about 800,000 images; what was not used for longest makes way."""
CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other values."""


@dataclass(frozen=True)
class FrozenBackbone:
    """A network up to its pooled features, with all that identifies it.

    Attributes:
        module: Classifier in evaluation mode whose backbone is still as its weights were loaded.
        architecture: Name of the network.
        weights_sha256: Hash of the backbone's weights.
        preprocess: How an image becomes the network's input.
        memory_format: Memory format of the images; it decides the last bits of the result.
        batch_size: Images in a forward pass; it decides the last bits as well.
    """

    module: nn.Module = field(repr=False)
    architecture: str
    weights_sha256: str
    preprocess: Preprocess
    memory_format: torch.memory_format
    batch_size: int = 64

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.module.parameters()).device


class Features(NamedTuple):
    """What a frozen backbone makes of images.

    Attributes:
        values: float32, shape (n, features); memory-mapped where they come from the disk.
        cached_seconds: Seconds that an earlier run spent computing these features; 0 if they were computed now.
    """

    values: NDArray[np.float32]
    cached_seconds: float


def frozen_features(
    backbone: FrozenBackbone,
    squares: Squares,
    *,
    mirror: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Features:
    """Return the pooled features of every image, from the cache on disk where they are known.

    An entry is read only if it is whole; one that is damaged is computed again.

    Raises:
        WriteError: The cache folder can't be written.
    """
    facts = _deciding(backbone, squares, mirror)
    path = cache_of("features") / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.npy"
    kept = KeptArray(path, facts, CACHE_BYTES)

    def fits(stored: Stored) -> bool:
        values, seconds = stored.values, stored.facts.get("seconds")
        right = values.dtype == np.float32 and values.ndim == 2 and len(values) == len(squares)
        return right and isinstance(seconds, float)

    if (known := kept.read(fits)) is not None:
        advance(len(squares))
        return Features(known.values, known.facts["seconds"])
    started = time.monotonic()
    blocks = _compute(backbone, squares, mirror, advance)
    first = next(blocks)
    took = {"seconds": 0.0}
    # Straight to the disk, where they need not stay in memory.
    with kept.writer((len(squares), first.shape[1]), first.dtype, lambda: took) as add:
        add(first)
        for block in blocks:
            add(block)
        took["seconds"] = round(time.monotonic() - started, 3)
    if (stored := kept.read(fits)) is not None:
        return Features(stored.values, 0.0)
    # Another process has made room in the cache already.
    return Features(np.concatenate(list(_compute(backbone, squares, mirror, lambda _: None))), 0.0)


def in_memory(parts: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return features of several kinds of the same images, one below the other, in memory of their own.

    Mapped pages are given back on the way, since they would count as this process's memory once more.
    """
    features = torch.empty(sum(map(len, parts)), parts[0].shape[1])
    start = 0
    for part in parts:
        for first in range(0, len(part), BLOCK):
            block = np.array(part[first : first + BLOCK])
            features[start : start + len(block)] = torch.from_numpy(block)
            start += len(block)
            release(part)
    return features


@torch.inference_mode()
def _compute(
    backbone: FrozenBackbone, squares: Squares, mirror: bool, advance: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    """Yield the features of one batch after another."""
    batches = evaluation_batches(squares, backbone.preprocess, batch_size=backbone.batch_size, device=backbone.device)
    for images, _ in batches:
        seen = images.flip(3) if mirror else images
        laid_out = seen.contiguous(memory_format=backbone.memory_format)
        yield pooled_features(backbone.module, laid_out).float().cpu().numpy()
        advance(len(images))


def _deciding(backbone: FrozenBackbone, squares: Squares, mirror: bool) -> dict[str, Any]:
    """Return everything that decides the features, to the last bit, as plain data."""
    on_cpu = backbone.device.type == "cpu"
    hardware = describe_hardware(backbone.device)
    return {
        "images": squares.fingerprint(),
        "preprocess": backbone.preprocess.fingerprint(),
        "mirror": mirror,
        "architecture": backbone.architecture,
        "weights": backbone.weights_sha256,
        "structure": _structure(backbone.module),
        "code": {"features": CODE_VERSION, "fold": fold.CODE_VERSION, "heads": heads.CODE_VERSION},
        "versions": {"torch": torch.__version__, "timm": version("timm")},
        "memory_format": str(backbone.memory_format),
        "batch_size": backbone.batch_size,
        # On GPUs float32 may be rounded in products (TF32).
        "precision": ["float32", {"tf32": hardware.get("tf32", False)}],
        "device": [backbone.device.type, hardware["cpu" if on_cpu else "device"]],
        "threads": torch.get_num_threads() if on_cpu else None,
    }


def _structure(module: nn.Module) -> str:
    """Return the SHA-256 of what the backbone's layers are: folding and padding change them, and not the weights' hash.

    The head is left out, since it comes after the features, and dropout, which does nothing in evaluation.
    """
    beyond = set(head_of(module).modules())
    layers = [
        f"{name} {type(layer).__qualname__} {layer.extra_repr()}"
        for name, layer in module.named_modules()
        if layer not in beyond and not isinstance(layer, nn.Dropout)
    ]
    return hashlib.sha256("\n".join(layers).encode()).hexdigest()
