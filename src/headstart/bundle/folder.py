"""A classifier on disk, written and read as a whole."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headstart.bundle.card import model_card
from headstart.bundle.config import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Bundle,
    check_config,
    read_config,
    to_config,
)
from headstart.errors import BundleError, RunError, WeightsError
from headstart.files import write_atomically
from headstart.models.architectures import OWN_ARCHITECTURES
from headstart.models.heads import empty_classifier


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle as a whole or not at all.

    All files are written to a hidden folder beside the target, flushed to the disk, and renamed into place.
    An older bundle in the same place is replaced; any other folder with contents is left alone.

    Raises:
        BundleError: The weights are not finite, or the bundle's fields contradict each other.
        RunError: The folder is taken by something else or can't be written.
    """
    folder = Path(folder)
    tensors = {name: _storable(tensor) for name, tensor in bundle.module.state_dict().items()}
    _check_finite(tensors, folder)
    config = to_config(bundle)
    check_config(config, folder)
    if folder.exists() and not _replaceable(folder):
        raise RunError(f"{folder} exists and is not a saved classifier. Choose another folder, or remove this one.")
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        beside.mkdir(parents=True)
        save_file(tensors, beside / WEIGHTS_FILE, metadata={"format": "pt"})
        _sync(beside / WEIGHTS_FILE)
        write_atomically(beside / CONFIG_FILE, _json(config))
        write_atomically(beside / CARD_FILE, _card(config))
        # safetensors makes its file private to the user.
        shutil.copymode(beside / CONFIG_FILE, beside / WEIGHTS_FILE)
        _sync(beside)
        _rename_folder(beside, folder)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} can't be written: {error}. Nothing there was changed.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle; nothing in it is unpickled, and pickled weights beside it are not looked at.

    Raises:
        BundleError: A file is missing or damaged; the format, a key or the architecture is unknown; a tensor
            is missing, superfluous, of another shape or type, or not finite.
    """
    folder = Path(folder)
    facts = check_config(read_config(folder), folder)
    try:
        module = empty_classifier(
            facts["architecture"],
            num_classes=len(facts["class_names"]),
            hidden=facts["hidden"],
            dropout=facts["dropout"],
        )
    except WeightsError as error:
        raise BundleError(f"{folder / CONFIG_FILE}: {error}") from error
    _fill(module, folder / WEIGHTS_FILE)
    return Bundle(module=module.eval(), **facts)


def update_bundle(folder: Path, *, temperature: float, metrics: Mapping[str, Any]) -> None:
    """Put a fitted temperature and measured scores into a saved bundle; its weights stay untouched.

    Raises:
        BundleError: The folder holds no valid bundle, or the new values are out of range.
        RunError: The folder can't be written.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_config(config, folder)
    config["headstart"].update(temperature=temperature, metrics=dict(metrics))
    check_config(config, folder)
    try:
        write_atomically(folder / CARD_FILE, _card(config))
        write_atomically(folder / CONFIG_FILE, _json(config))
    except OSError as error:
        raise RunError(f"{folder} can't be written: {error}.") from error


def _fill(module: nn.Module, path: Path) -> None:
    """Copy the stored tensors into ``module``; every single one must fit."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is damaged or is not a safetensors file ({error}).") from None
    wanted = module.state_dict()
    problems = [f"missing: {name}" for name in sorted(wanted.keys() - stored.keys())]
    problems += [f"unknown: {name}" for name in sorted(stored.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & stored.keys()):
        have, want = _kind(stored[name]), _kind(wanted[name])
        if have != want:
            problems.append(f"{name}: {have} instead of {want}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise BundleError(
            f"{path} does not fit the network that {CONFIG_FILE} describes. {'; '.join(problems[:8])}{more}."
        )
    _check_finite(stored, path)
    module.load_state_dict(stored)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise BundleError(f"{where}: not a finite number in {', '.join(bad[:8])}{more}. The classifier is unusable.")


def _storable(tensor: Tensor) -> Tensor:
    # A copy of its own, as safetensors refuses tensors that share memory.
    kept = tensor.detach().to(device="cpu", copy=True).contiguous()
    return kept.float() if kept.is_floating_point() else kept


def _card(config: Mapping[str, Any]) -> str:
    linear = not config["headstart"]["hidden"]
    return model_card(config, timm_loads=linear and config["architecture"] not in OWN_ARCHITECTURES)


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / CONFIG_FILE).is_file() or not any(folder.iterdir()))


def _rename_folder(new: Path, place: Path) -> None:
    """Move ``new`` to ``place``; a folder that is there already is kept until the new one is in its place."""
    old = new.with_suffix(".old")
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(place.parent)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never outruns its contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
