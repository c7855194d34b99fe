"""Features of a frozen backbone: computed once and kept on disk, under a key that holds all that decides them."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.compute.device import describe_hardware
from headstart.contracts import UInt8Images
from headstart.data.array_file import Stored, read_array, write_array
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Places, Squares
from headstart.errors import WriteError
from headstart.files import drop_oldest, sweep_leftovers
from headstart.home import cache_home
from headstart.models import fold, heads
from headstart.models.heads import head_of, pooled_features

CACHE_BYTES = 4 * 10**9
"""Features of about 800,000 images; what was not used for longest makes way."""
CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other values."""
logger = logging.getLogger(__name__)


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
    folder = cache_home() / "features"
    path = folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.npy"
    if (known := _known(path, facts, len(squares))) is not None:
        # The age decides what goes when the cache is full. Where the entry has gone meanwhile, or the cache is only
        # read, there is none to set; the values are mapped already.
        with suppress(OSError):
            os.utime(path)
        advance(len(squares))
        return known
    started = time.monotonic()
    values = _compute(backbone, squares, mirror, advance).numpy()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(folder)
        write_array(path, values, {"seconds": round(time.monotonic() - started, 3), "decided_by": facts})
    except OSError as error:
        advice = "Or name another folder in the environment variable HEADSTART_HOME."
        raise WriteError(folder, error, advice) from error
    drop_oldest(folder.glob("*.npy"), limit=CACHE_BYTES, spare=lambda entry, _: entry == path)
    # What lies on the disk need not stay in memory.
    stored = _known(path, facts, len(squares))
    return Features(stored.values if stored else values, 0.0)


def _known(path: Path, facts: dict[str, Any], images: int) -> Features | None:
    """Return the features in a file; None where they must be computed."""
    stored: Stored | None = read_array(path)
    if stored is None:
        return None
    values, seconds = stored.values, stored.facts.get("seconds")
    fits = values.dtype == np.float32 and values.ndim == 2 and len(values) == images
    if not fits or stored.facts.get("decided_by") != facts or not isinstance(seconds, float):
        logger.warning("%s holds other features than its name says, and is computed again.", path)
        return None
    return Features(values, seconds)


@torch.inference_mode()
def _compute(backbone: FrozenBackbone, squares: Squares, mirror: bool, advance: Callable[[int], None]) -> Tensor:
    features = torch.empty(0)

    def prepare(pixels: UInt8Images, _: Places) -> Tensor:
        return backbone.preprocess.tensor(torch.from_numpy(pixels).to(backbone.device))

    for start in range(0, len(squares), backbone.batch_size):
        positions = np.arange(start, min(start + backbone.batch_size, len(squares)))
        prepared = squares.tensor(positions, prepare)
        if mirror:
            prepared = prepared.flip(3)
        laid_out = prepared.contiguous(memory_format=backbone.memory_format)
        found = pooled_features(backbone.module, laid_out).float()
        if start == 0:
            # In one piece: kept batch by batch, they would lie scattered between the feature maps that come and go, and
            # hold on to many times their own memory.
            features = torch.empty(len(squares), found.shape[1])
        features[start : start + len(positions)] = found
        advance(len(positions))
    return features


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
