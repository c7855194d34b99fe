"""Checkpoint files: written beside, flushed, renamed, hashed; the newest good one counts.

A checkpoint is one safetensors file of named tensors; all numbers are JSON in its metadata. Its name ends in the
SHA-256 of its content, so that a single rename makes it valid, and any later damage shows.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headstart.errors import TrainingError
from headstart.files import write_atomically
from headstart.wording import typed

logger = logging.getLogger(__name__)
KEEP = 2


class Checkpoint(NamedTuple):
    """A checkpoint as it was read, with its tensors on the CPU."""

    path: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def write_checkpoint(folder: Path, *, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Path:
    """Write a checkpoint, and remove all but this one and the newest before it.

    Floats among the numbers survive to the last bit.

    Returns:
        The file written.

    Raises:
        TrainingError: It could not be written, e.g. because the disk is full; earlier checkpoints are untouched.
    """
    content = save_tensors(_apart(tensors), metadata={"numbers": json.dumps(numbers)})
    path = folder / f"step-{step:09d}-{_digest(content)}.safetensors"
    try:
        write_atomically(path, content)
    except OSError as error:
        raise TrainingError(
            f"Checkpoint {path} could not be written ({error.strerror}). {describe_newest(folder)} "
            f"Make room, then: {typed('train', '--resume', folder.parent)}"
        ) from None
    earlier = [other for other in _newest_first(folder) if other.name < path.name]
    for other in _newest_first(folder):
        # Later ones were passed over as damaged when the training came back to this step.
        if other not in (path, *earlier[: KEEP - 1]):
            with suppress(OSError):
                other.unlink()
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU of which each has its own memory, which safetensors asks for."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        # Distilled vision transformers get one classifier for both of their tokens.
        found[name] = here.clone() if here.data_ptr() in places else here
        places.add(here.data_ptr())
    return found


def read_checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """Yield the checkpoints, the newest first; damaged ones are named in a warning and passed over."""
    for path in _newest_first(folder):
        try:
            content = path.read_bytes()
            if not _has_its_name(path, content):
                raise ValueError("its content does not have the hash in its name")
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            numbers = json.loads(header["__metadata__"]["numbers"])
            if not isinstance(numbers, dict):
                raise ValueError("its numbers are not a JSON object")
            checkpoint = Checkpoint(path, load_tensors(content), numbers)
        except (OSError, MemoryError) as error:
            why = getattr(error, "strerror", "it does not fit into memory")
            logger.warning("Checkpoint %s can't be read (%s) and is passed over.", path, why)
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            logger.warning("Checkpoint %s is damaged and is passed over: %s", path, error)
        else:
            yield checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose content has the hash in its name; None where there is none."""
    for path in _newest_first(folder):
        with suppress(OSError, MemoryError):
            if _has_its_name(path, path.read_bytes()):
                return path
    return None


def describe_newest(folder: Path) -> str:
    """Return a sentence for an error message: which checkpoint a training can be resumed from, if any."""
    newest = newest_checkpoint(folder)
    return f"The last good checkpoint is {newest.name}." if newest else "There is no checkpoint yet."


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under ``prefix.name``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that ``with_prefix`` put under ``prefix``, by their own names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*.safetensors") if path.is_file()), reverse=True)


def _has_its_name(path: Path, content: bytes) -> bool:
    return _digest(content) == path.stem.rpartition("-")[2]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
