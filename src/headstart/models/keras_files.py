"""Keras's weights files, which are HDF5: read with everything refused that reaches outside the file.

A dataset of HDF5 can keep its values in any other file of the machine (external storage, virtual datasets, external
links), and can declare far more of them than it stores. None of that belongs into weights.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import WeightsError

# Keras 1 called kernels W and the variance of a batch norm running_std; Keras 2 adds _1 to repeated names.
_KINDS = {
    "kernel": "kernel",
    "W": "kernel",
    "bias": "bias",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "running_mean": "moving_mean",
    "moving_variance": "moving_variance",
    "running_std": "moving_variance",
}
_KIND = re.compile(rf"(?:^|[_/])({'|'.join(_KINDS)})(?:_\d+)?(?::0)?$")
_MAX_BYTES = 600_000_000
"""Largest size of all arrays; those of ResNet50 with its optimizer take 300 MB."""
_MAX_OBJECTS = 20_000
_MAX_RATIO = 1100
"""How many times larger than what is stored an array may be: as far as zeros can be compressed."""
_FILTERS = {1, 2, 3, 32000}
"""Deflate, shuffle, checksum and LZF; others would load plugins."""


class _Unsafe(Exception):  # noqa: N818 - becomes a WeightsError that names the file
    """What a weights file must not hold."""


def read_keras(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return a Keras file's arrays, named ``layer/kind`` in Keras 2's words whatever version wrote them.

    Raises:
        WeightsError: h5py is missing, the file is damaged, or it refers to other files.
    """
    try:
        import h5py
    except ImportError:
        raise WeightsError(
            f"Reading {path} needs h5py, which is not installed. Install it with: pip install h5py"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            found = _collect(h5py, file)
            return {_keras_name(name): np.asarray(item, dtype=np.float32) for name, item in found.items()}
    except _Unsafe as error:
        raise WeightsError(
            f"{path} is refused: {error}. Plain weights hold no such thing; save them again with Keras's save_weights."
        ) from None
    # h5py passes on whatever the C library says of damaged files, and numpy what it can't convert.
    except Exception as error:
        raise WeightsError(f"{path} is not a whole HDF5 file: {type(error).__name__}: {str(error)[:200]}") from error


def _collect(h5py: Any, file: Any) -> dict[str, Any]:
    """Return the datasets of numbers in a file by their path, once everything in it was found harmless."""
    numbers: dict[str, Any] = {}
    groups = [("", file)]
    left, objects = _MAX_BYTES, 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            path = f"{prefix}{name}"
            objects += 1
            if objects > _MAX_OBJECTS:
                raise _Unsafe(f"it holds more than {_MAX_OBJECTS:,} objects")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Unsafe(f"'{path[:100]}' is a link to another place")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((f"{path}/", item))
            elif isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                _check_dataset(path, item)
                left -= 4 * item.size
                if left < 0:
                    raise _Unsafe(f"its arrays take more than {_MAX_BYTES / 1e6:,.0f} MB")
                numbers[path] = item
    return numbers


def _check_dataset(path: str, item: Any) -> None:
    if item.is_virtual or item.external:
        raise _Unsafe(f"the values of '{path[:100]}' lie in another file")
    settings = item.id.get_create_plist()
    if unknown := {settings.get_filter(i)[0] for i in range(settings.get_nfilters())} - _FILTERS:
        raise _Unsafe(f"'{path[:100]}' is encoded in a way that needs a plugin (filter {min(unknown)})")
    stored = item.id.get_storage_size()
    if item.nbytes > _MAX_RATIO * max(stored, 100):
        raise _Unsafe(f"'{path[:100]}' declares {item.nbytes:,} bytes, but only {stored:,} are stored")


def _keras_name(path: str) -> str:
    kind = _KIND.search(path)
    layer = path.removeprefix("model_weights/").partition("/")[0]
    return f"{layer}/{_KINDS[kind[1]] if kind else path}"
