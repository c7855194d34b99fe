"""A classifier on disk, written and read as a whole."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headstart.bundle.card import model_card
from headstart.bundle.config import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Bundle,
    check_config,
    doubts,
    read_config,
    to_config,
)
from headstart.bundle.novelty import NOVELTY_FILE, Novelty, read_novelty, write_novelty
from headstart.bundle.schema import Abstention
from headstart.errors import BundleError, EarlierScoreError, RunError, WeightsError, WriteError, cut
from headstart.files import reading, sync_folder, write_atomically, writing
from headstart.folders import put_folder, scratch_folder, sweep_leftovers
from headstart.models.heads import classifier_outline, empty_classifier, fill
from headstart.tasks.confidence import Confidence

logger = logging.getLogger(__name__)
_TYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}
"""How safetensors and torch call the types of numbers."""


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle as a whole or not at all.

    All files are written to a hidden folder beside the target, flushed to the disk, and renamed into place.
    An older bundle in the same place is replaced; any other folder with contents is left alone.

    Raises:
        BundleError: The weights are not finite, or the bundle's fields contradict each other.
        RunError: The folder is taken by something else.
        WriteError: It can't be written.
    """
    folder = Path(folder)
    tensors = {name: _storable(tensor) for name, tensor in bundle.module.state_dict().items()}
    _check_finite(tensors, folder)
    config = to_config(bundle)
    check_config(config, folder)
    if folder.exists() and not _replaceable(folder):
        raise RunError(f"{folder} exists and is not a saved classifier. Choose another folder, or remove this one.")
    unchanged = "Nothing there was changed."
    try:
        with writing(folder, unchanged), scratch_folder(folder) as beside:
            save_file(tensors, beside / WEIGHTS_FILE, metadata={"format": "pt"})
            _sync_file(beside / WEIGHTS_FILE)
            if bundle.novelty:
                write_novelty(beside, bundle.novelty)
            write_atomically(beside / CONFIG_FILE, _json(config))
            write_atomically(beside / CARD_FILE, model_card(config))
            # safetensors makes its file private to the user.
            shutil.copymode(beside / CONFIG_FILE, beside / WEIGHTS_FILE)
            sync_folder(beside)
            put_folder(beside, folder)
    except SafetensorError as error:
        raise WriteError(folder, OSError(str(error)), unchanged) from error
    sweep_leftovers(folder.parent, older_than=0, of=folder.name)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; nothing in it is unpickled, and pickled weights beside it are not looked at.

    Raises:
        BundleError: A file is missing or damaged; the format, a key or the architecture is unknown; a tensor
            is missing, superfluous, of another shape or type, or not finite.
    """
    folder = Path(folder)
    config = read_config(folder)
    facts = check_config(config, folder)
    path = folder / WEIGHTS_FILE
    shape = {"num_classes": len(facts["class_names"]), "hidden": facts["hidden"], "dropout": facts["dropout"]}
    stored = _stored_kinds(path)
    if len(facts["hidden"]) > len(stored):
        raise BundleError(
            f"{folder / CONFIG_FILE}: headstart.hidden has {len(facts['hidden']):,} layers, but {WEIGHTS_FILE} holds "
            f"only {len(stored)} tensors; they must belong to one classifier."
        )
    try:
        module = classifier_outline(facts["architecture"], **shape)
        _check_fit(stored, module, path)
        tensors = _read_tensors(path)
        if not fill(module, tensors):
            module = empty_classifier(facts["architecture"], **shape)
            module.load_state_dict(tensors)
    except WeightsError as error:
        raise BundleError(f"{folder / CONFIG_FILE}: {error}") from error
    novelty = None
    if config["headstart"].get("novelty"):
        try:
            novelty = read_novelty(folder, num_classes=shape["num_classes"])
        except EarlierScoreError:
            told = (
                "%s is of an earlier version, so no image is marked unfamiliar; headstart evaluate RUN fits it again."
            )
            logger.warning(told, folder / NOVELTY_FILE)
    return Bundle(module=module.eval(), novelty=novelty, **facts)


def update_bundle(
    folder: Path,
    *,
    temperature: float,
    metrics: Mapping[str, Any],
    abstention: Abstention | None = None,
    novelty: Novelty | None = None,
    confidence: Confidence | None = None,
) -> None:
    """Put what was measured into a saved bundle; its weights stay untouched, and so do doubts that are not given.

    Raises:
        BundleError: The folder holds no valid bundle, or the new values are out of range.
        WriteError: The folder can't be written.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_config(config, folder)
    found = doubts(abstention, novelty, confidence)
    config["headstart"].update(temperature=temperature, metrics=dict(metrics), **found)
    check_config(config, folder)
    sweep_leftovers(folder, older_than=0)
    if novelty:
        # Before the configuration that says it is there.
        write_novelty(folder, novelty)
    write_atomically(folder / CARD_FILE, model_card(config))
    write_atomically(folder / CONFIG_FILE, _json(config))


def _stored_kinds(path: Path) -> dict[str, str]:
    """Return type and shape of each tensor, by name, as the head of the file lists them; no tensor is read."""
    with _naming_damage(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return {name: _kind(_TYPES.get(s.get_dtype(), s.get_dtype()), s.get_shape()) for name, s in slices.items()}


def _check_fit(stored: Mapping[str, str], module: nn.Module, path: Path) -> None:
    """Compare the file with what the network needs, before memory is taken for either."""
    wanted = {
        name: _kind(str(tensor.dtype).removeprefix("torch."), tensor.shape)
        for name, tensor in module.state_dict().items()
    }
    problems = [f"missing: {name}" for name in sorted(wanted.keys() - stored.keys())]
    problems += [f"unknown: {cut(name)}" for name in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"{name}: {stored[name]} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & stored.keys())
        if stored[name] != wanted[name]
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise BundleError(
            f"{path} does not fit the network that {CONFIG_FILE} describes. {'; '.join(problems[:8])}{more}."
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    # A copy, as the tensors would otherwise be views of the file, which may be replaced while they are in use.
    with _naming_damage(path):
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    _check_finite(tensors, path)
    return tensors


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        with reading(path, BundleError):
            yield
    except SafetensorError as error:
        raise BundleError(f"{path} is damaged or is not a safetensors file ({cut(str(error))}).") from None


def _kind(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype} {tuple(shape)}"


def _check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise BundleError(f"{where}: not a finite number in {', '.join(bad[:8])}{more}. The classifier is unusable.")


def _storable(tensor: Tensor) -> Tensor:
    # A copy of its own, as safetensors refuses tensors that share memory.
    kept = tensor.detach().to(device="cpu", copy=True).contiguous()
    return kept.float() if kept.is_floating_point() else kept


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / CONFIG_FILE).is_file() or not any(folder.iterdir()))


def _sync_file(path: Path) -> None:
    """Flush a file to the disk, so that a rename never outruns its contents."""
    # Windows flushes only what is open for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
