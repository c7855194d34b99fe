"""headstart's own format of a data set: a folder with four .npy files and a dataset.json.

    train_images.npy    uint8, shape (n, height, width, 3), RGB
    train_labels.npy    int64, shape (n,)
    test_images.npy     uint8, shape (m, height, width, 3), RGB
    test_labels.npy     int64, shape (m,)
    dataset.json        {"format": 2, "name", "class_names", "sha256", "whole_sha256", "source"}

Format 1, which is still read, lacks "whole_sha256" and so can't tell whether the class names are those that were
written. The images are memory-mapped, so opening costs no memory; nothing in it can be a pickle.
"""

import hashlib
import json
import math
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, UInt8Images
from headstart.data.arrays import Arrays
from headstart.errors import DataError, short
from headstart.files import read_bounded, reading, writing
from headstart.folders import scratch_folder, sweep_leftovers
from headstart.home import ADVICE

FORMAT = 2
_DESCRIPTION = "dataset.json"
_DESCRIPTION_BYTES = 10_000_000
_NUMBER = rb"(?:0|[1-9]\d*)"
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)"
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, "
    rb"'shape': \((" + _NUMBER + rb"(?:,|(?:, " + _NUMBER + rb")+))\), \} *\n",
    re.DOTALL,
)
"""What ``numpy.save`` writes before the bytes of an array."""
_HEADER_BYTES = 1024


@dataclass(frozen=True)
class Stored:
    """A data set that was opened and verified.

    Attributes:
        arrays: The images memory-mapped and read-only, the labels in memory.
        name: Of the data set.
        class_names: In index order.
        sha256: Of the arrays, as ``Arrays.sha256`` defines it.
        source: Where the images came from, for people.
    """

    arrays: Arrays
    name: str
    class_names: ClassNames
    sha256: str
    source: str


def is_store(folder: Path) -> bool:
    """Return whether ``folder`` claims to be a data set in this format.

    Raises:
        DataError: The path can't be looked at.
    """
    with reading(folder, DataError):
        return (folder / _DESCRIPTION).is_file()


def write_store(folder: Path, arrays: Arrays, *, name: str, class_names: ClassNames, source: str) -> str:
    """Write a data set and return its SHA-256; ``folder`` is replaced as a whole or not at all.

    Raises:
        WriteError: The folder can't be written.
    """
    with writing(folder, f"CIFAR-10 takes 185 MB. {ADVICE}"), scratch_folder(folder) as scratch:
        staging = scratch / "new"
        staging.mkdir()
        for part in fields(Arrays):
            np.save(staging / f"{part.name}.npy", getattr(arrays, part.name), allow_pickle=False)
        sha256 = arrays.sha256()
        description = {
            "format": FORMAT,
            "name": name,
            "class_names": list(class_names),
            "sha256": sha256,
            "whole_sha256": _whole_sha256(sha256, list(class_names)),
            "source": source,
        }
        (staging / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(scratch / "old")
        staging.rename(folder)
    return sha256


def discard_store(folder: Path) -> None:
    """Remove a data set and what killed processes have left beside it; the caller holds the folder's lock."""
    shutil.rmtree(folder, ignore_errors=True)
    sweep_leftovers(folder.parent, older_than=0)
    # Scratch folders had such names in version 0.1.
    for leftover in folder.parent.glob(f"{folder.name}-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def open_store(folder: Path) -> Stored:
    """Open a data set and verify every byte of it.

    Raises:
        DataError: A file is missing, damaged or of the wrong kind, may not be read, or the content is not what was
            written.
    """
    described = _read_description(folder / _DESCRIPTION)
    class_names = ClassNames(tuple(described["class_names"]))
    arrays = Arrays(
        train_images=_open_images(folder / "train_images.npy"),
        train_labels=_read_labels(folder / "train_labels.npy", class_names),
        test_images=_open_images(folder / "test_images.npy"),
        test_labels=_read_labels(folder / "test_labels.npy", class_names),
    )
    for split, images, labels in (
        ("train", arrays.train_images, arrays.train_labels),
        ("test", arrays.test_images, arrays.test_labels),
    ):
        if len(images) != len(labels):
            raise DataError(f"{folder} has {len(images)} {split} images but {len(labels)} {split} labels.")
    sha256 = arrays.sha256()
    _check_promise(folder, "images or labels", sha256, described["sha256"])
    if described["format"] > 1:
        _check_promise(folder, "class names", _whole_sha256(sha256, list(class_names)), described["whole_sha256"])
    return Stored(arrays, described["name"], class_names, sha256, described["source"])


def _whole_sha256(sha256: str, class_names: list[str]) -> str:
    """Return a hash of the arrays, by way of theirs, and of the class names in their order."""
    return hashlib.sha256(json.dumps([sha256, class_names]).encode()).hexdigest()


def _check_promise(folder: Path, what: str, found: str, promised: str) -> None:
    if found != promised:
        raise DataError(
            f"The {what} in {folder} are not those that were written: their SHA-256 is {found[:12]}..., and"
            f" {_DESCRIPTION} says {promised[:12]}...."
        )


def _read_description(path: Path) -> dict[str, Any]:
    """Return the content of dataset.json, every key of the right type."""
    with reading(path, DataError):
        text = read_bounded(path, at_most=_DESCRIPTION_BYTES).decode("utf-8")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read: {error}.") from None
    if not isinstance(content, dict) or content.get("format") not in range(1, FORMAT + 1):
        raise DataError(f"{path} does not describe a data set of format 1 or {FORMAT}, which this version reads.")
    for key in ("name", "sha256", "source", *(["whole_sha256"] if content["format"] > 1 else [])):
        if not isinstance(content.get(key), str):
            raise DataError(f"{path}: '{key}' must be a string, but is {short(content.get(key))}.")
    names = content.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'class_names' must be a list of strings, but is {short(names)}.")
    return content


def _open_images(path: Path) -> UInt8Images:
    shape, offset = _read_header(path, np.dtype(np.uint8))
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise DataError(f"{path} must hold images of shape (n, height, width, 3), but its shape is {shape}.")
    try:
        return np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be mapped into memory: {error}.") from None


def _read_labels(path: Path, class_names: ClassNames) -> NDArray[np.int64]:
    shape, offset = _read_header(path, np.dtype("<i8"))
    if len(shape) != 1:
        raise DataError(f"{path} must hold labels of shape (n,), but its shape is {shape}.")
    try:
        labels = np.fromfile(path, "<i8", count=shape[0], offset=offset).astype(np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}.") from None
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(class_names)):
        raise DataError(
            f"{path} holds labels from {labels.min()} to {labels.max()}, but there are {len(class_names)} classes."
        )
    return labels


def _read_header(path: Path, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], int]:
    """Return the shape in the header of a .npy file and where the array begins.

    numpy's own reader evaluates the header as a Python expression, and fails in many ways on damaged ones; it reads
    pickles, too. Here a header is what numpy writes, and the size of the file follows from it, or it is refused.
    """
    with reading(path, DataError), path.open("rb") as file:
        head, size = file.read(_HEADER_BYTES), path.stat().st_size
    found = _HEADER.match(head)
    if found is None:
        raise DataError(f"{path} is damaged or truncated: it does not begin as numpy.save begins a file.")
    if found[1].decode() != dtype.str:
        raise DataError(f"{path} must hold an array of type {dtype.str}, but its type is {found[1].decode()}.")
    shape = tuple(int(number) for number in re.findall(rb"\d+", found[2]))
    announced = int.from_bytes(head[8 : 10 if head[6] == 1 else 12], "little") + (10 if head[6] == 1 else 12)
    if found.end() != announced or size != found.end() + math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{path} is damaged or truncated: its header announces an array of shape {short(shape)}, which does not "
            f"take the {size:,} bytes of the file."
        )
    return shape, found.end()
