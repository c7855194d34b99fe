"""Features of a frozen backbone: computed once, kept on disk, keyed by images, weights and transform."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headstart.contracts import UInt8Images
from headstart.data.preprocess import Preprocess
from headstart.data.working_copy import Places, Squares
from headstart.errors import TrainingError
from headstart.files import write_atomically, write_json
from headstart.home import cache_home
from headstart.models.heads import pooled_features

CACHE_BYTES = 4 * 10**9
"""Features of about 800,000 images; what was not used for longest makes way."""


class Features(NamedTuple):
    """What a frozen backbone makes of images.

    Attributes:
        values: float32, shape (n, features); memory-mapped.
        cached_seconds: What computing them took the run that left them on the disk; 0 where it was this one.
    """

    values: NDArray[np.float32]
    cached_seconds: float


def frozen_features(
    module: nn.Module,
    squares: Squares,
    *,
    preprocess: Preprocess,
    weights_sha256: str,
    memory_format: torch.memory_format,
    mirror: bool = False,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda _: None,
) -> Features:
    """Return the pooled features of every image, from the cache on disk where they are known.

    Args:
        module: Classifier whose backbone is still as its weights were loaded; must be in eval mode.
        squares: Of which images.
        preprocess: Size and statistics of the network's input.
        weights_sha256: Hash of the backbone's weights.
        memory_format: Of the images; part of the key, since it decides the last bits of the result.
        mirror: Flip the images left to right.
        batch_size: Images in a forward pass.
        advance: Called with the number of images finished.

    Raises:
        TrainingError: The cache folder can't be written.
    """
    key = _key(module, squares, preprocess, weights_sha256, mirror, str(memory_format))
    path = cache_home() / "features" / f"{key}.npy"
    cached_seconds = _cached_seconds(path)
    if cached_seconds is not None:
        # The age decides what goes when the cache is full; a cache that is only read keeps its ages.
        with suppress(OSError):
            path.touch()
        advance(len(squares))
    else:
        started = time.monotonic()
        features = _compute(module, squares, preprocess, memory_format, mirror, batch_size, advance)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(_facts(path), {"seconds": round(time.monotonic() - started, 3)})
            write_atomically(path, _npy(features))
            # Another process may clear away at the same time.
            with suppress(FileNotFoundError):
                _forget_oldest(path.parent, keep=path)
        except OSError as error:
            raise TrainingError(
                f"Features can't be written to {path.parent} ({error.strerror}). Free some space, or name "
                "another folder in the environment variable HEADSTART_HOME."
            ) from None
    stored: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return Features(stored, cached_seconds or 0.0)


def _facts(path: Path) -> Path:
    """Return the file beside the features that says what they cost."""
    return path.with_suffix(".json")


def _cached_seconds(path: Path) -> float | None:
    """Return what these features cost; None where they must be computed."""
    if not path.is_file() or not _facts(path).is_file():
        return None
    facts: dict[str, float] = json.loads(_facts(path).read_text(encoding="utf-8"))
    return facts["seconds"]


@torch.inference_mode()
def _compute(
    module: nn.Module,
    squares: Squares,
    preprocess: Preprocess,
    memory_format: torch.memory_format,
    mirror: bool,
    batch_size: int,
    advance: Callable[[int], None],
) -> Tensor:
    device = next(module.parameters()).device
    features = torch.empty(0)

    def prepare(pixels: UInt8Images, _: Places) -> Tensor:
        return preprocess.tensor(torch.from_numpy(pixels).to(device))

    for start in range(0, len(squares), batch_size):
        positions = np.arange(start, min(start + batch_size, len(squares)))
        prepared = squares.tensor(positions, prepare)
        if mirror:
            prepared = prepared.flip(3)
        found = pooled_features(module, prepared.contiguous(memory_format=memory_format)).float()
        if start == 0:
            # In one piece: kept batch by batch, they would lie scattered between the feature maps that come and go, and
            # hold on to many times their own memory.
            features = torch.empty(len(squares), found.shape[1])
        features[start : start + len(positions)] = found
        advance(len(positions))
    return features


def _key(
    module: nn.Module,
    squares: Squares,
    preprocess: Preprocess,
    weights_sha256: str,
    mirror: bool,
    memory_format: str,
) -> str:
    """Return what decides the features, to the last bit: batch norms that are folded away round differently."""
    device = next(module.parameters()).device.type
    batch_norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    described = [squares.fingerprint(), preprocess.fingerprint(), weights_sha256, batch_norms, mirror]
    described += [memory_format, device, torch.__version__]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _forget_oldest(folder: Path, *, keep: Path) -> None:
    """Remove the features that were not used for longest until the rest fits into the cache."""
    files = sorted((file for file in folder.glob("*.npy") if file != keep), key=lambda file: file.stat().st_mtime)
    excess = sum(file.stat().st_size for file in (*files, keep)) - CACHE_BYTES
    for file in files:
        if excess <= 0:
            return
        excess -= file.stat().st_size
        file.unlink(missing_ok=True)
        _facts(file).unlink(missing_ok=True)


def _npy(features: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, features.numpy(), allow_pickle=False)
    return buffer.getvalue()
