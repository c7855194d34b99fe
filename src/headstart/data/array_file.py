"""An array and what is known of it in one file, which is checked to the last bit whenever it is read.

The file is a plain ``.npy`` file that NumPy reads, followed by one line of JSON with the facts and one line with the
SHA-256 of everything before it.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.files import new_file

_CHECKSUM_LINE = 65
"""Bytes of the last line: a SHA-256 in hexadecimal and a line end."""
_CHECKSUM = re.compile(rb"[0-9a-f]{64}\n")
_CHUNK = 2**20
logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """What such a file holds.

    Attributes:
        values: Memory-mapped, read-only.
        facts: What is known of them, as plain data.
        start: Place of the first value in the file, in bytes.
    """

    values: NDArray[Any]
    facts: dict[str, Any]
    start: int


@contextmanager
def new_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], facts: Callable[[], Mapping[str, Any]]
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Yield what takes the rows of an array, block by block; the file appears whole at the end, or not at all.

    Args:
        path: The file.
        shape: Of the whole array, which is not empty.
        dtype: Type of the values.
        facts: Asked for when all rows are there.

    Raises:
        OSError: The disk is full or the folder can't be written.
    """
    row = np.broadcast_to(np.empty((), dtype), shape)
    header = np.lib.format.header_data_from_array_1_0(row) | {"fortran_order": False}
    left = row.nbytes
    with new_file(path) as file:
        hashed = _Hashed(file)
        np.lib.format.write_array_header_1_0(hashed, header)

        def add(rows: NDArray[Any]) -> None:
            nonlocal left
            left -= hashed.write(np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8).data)

        yield add
        assert not left, f"{left} bytes of the array are missing"
        hashed.write(f"{json.dumps(dict(facts()), allow_nan=False)}\n".encode())
        file.write(f"{hashed.digest.hexdigest()}\n".encode())


def read_array(path: Path) -> Stored | None:
    """Read an array and its facts.

    Returns:
        None where there is no such file, or where it is damaged or can't be read, which is logged: the caller computes
        the values again. The map outlives the file's removal.
    """
    try:
        with path.open("rb") as file:
            return _stored(file, _checked_end(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged and is computed again (%s).", path, error)
        return None


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts beside an array without a look at its values, so that they may be damaged; empty if they are."""
    try:
        with path.open("rb") as file:
            return _stored(file, file.seek(0, 2) - _CHECKSUM_LINE).facts
    except (OSError, ValueError):
        return {}


def _stored(file: BinaryIO, end: int) -> Stored:
    """Return what is in a file before its checksum, which begins at ``end``."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    values: NDArray[Any] = np.memmap(file, dtype, "r", offset=start, shape=shape)
    file.seek(start + values.nbytes)
    facts = json.loads(file.read(end - start - values.nbytes))
    if not isinstance(facts, dict):
        raise ValueError("no facts")
    return Stored(values, facts, start)


def _checked_end(file: BinaryIO) -> int:
    """Return where the checksum begins, once it is known to fit what is before it; else raise ValueError."""
    end = file.seek(0, 2) - _CHECKSUM_LINE
    if end < 0:
        raise ValueError("it is too short")
    file.seek(end)
    # Looked at first, since a damaged file may be endless.
    if not _CHECKSUM.fullmatch(file.read()):
        raise ValueError("its checksum does not fit")
    file.seek(0)
    digest, left = hashlib.sha256(), end
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    if file.read() != f"{digest.hexdigest()}\n".encode():
        raise ValueError("its checksum does not fit")
    return end


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash."""
        self.digest.update(data)
        return self._file.write(data)
