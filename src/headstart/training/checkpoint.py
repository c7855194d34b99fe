"""Whole states of a training, on disk: written beside, flushed, renamed, hashed; the newest good one counts.

A checkpoint is one safetensors file. Its name ends in the SHA-256 of its content, so that a single rename makes it
valid, and any later damage shows. Tensors are named ``model.*``, ``ema.*``, ``best.*`` and
``optimizer.<parameter>.*``; all numbers stand as JSON in the metadata.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headstart.errors import TrainingError
from headstart.files import write_atomically

logger = logging.getLogger(__name__)
KEEP = 2


def write_checkpoint(folder: Path, *, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Path:
    """Write a checkpoint and remove all but the newest two.

    Args:
        folder: Of the checkpoints.
        step: Optimiser steps taken, for the order.
        tensors: By name.
        numbers: JSON-able; floats survive to the last bit.

    Returns:
        The file written.

    Raises:
        TrainingError: It could not be written, e.g. because the disk is full; earlier checkpoints are untouched.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save_tensors(contiguous, metadata={"numbers": json.dumps(numbers)})
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    try:
        write_atomically(path, content)
    except OSError as error:
        kept = newest_checkpoint(folder)
        raise TrainingError(
            f"Checkpoint {path} could not be written ({error.strerror}). "
            + (f"The last good one is {kept.name}. " if kept else "There is no earlier one. ")
            + f"Make room, then: headstart train --resume {folder.parent}"
        ) from None
    for old in _by_age(folder)[KEEP:]:
        old.unlink()
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose content has the hash in its name; damaged ones are named and passed over."""
    for path in _by_age(folder):
        if hashlib.sha256(path.read_bytes()).hexdigest()[:16] == path.stem.rpartition("-")[2]:
            return path
        logger.warning("Checkpoint %s is damaged and is passed over.", path)
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and numbers of a checkpoint; safetensors holds no code, so none is run."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load_tensors(content), json.loads(header["__metadata__"]["numbers"])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under ``prefix.name``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that ``with_prefix`` put under ``prefix``, by their own names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _by_age(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)
