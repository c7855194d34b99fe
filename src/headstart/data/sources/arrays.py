"""headstart's own format of a data set: a folder with four .npy files and a dataset.json.

    train_images.npy    uint8, shape (n, height, width, 3), RGB
    train_labels.npy    int64, shape (n,)
    test_images.npy     uint8, shape (m, height, width, 3), RGB
    test_labels.npy     int64, shape (m,)
    dataset.json        {"format": 1, "name", "class_names", "sha256", "source"}

The images are memory-mapped, so opening costs no memory; nothing in it can be a pickle.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import ClassNames, UInt8Images
from headstart.data.arrays import Arrays
from headstart.errors import DataError

FORMAT = 1
_DESCRIPTION = "dataset.json"


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
    """Return whether ``folder`` claims to be a data set in this format."""
    return (folder / _DESCRIPTION).is_file()


def write_store(folder: Path, arrays: Arrays, *, name: str, class_names: ClassNames, source: str) -> str:
    """Write a data set and return its SHA-256; ``folder`` is replaced as a whole or not at all.

    Raises:
        DataError: The folder can't be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", suffix=".partial", dir=folder.parent) as partial:
            staging = Path(partial) / "new"
            staging.mkdir()
            for part in fields(Arrays):
                np.save(staging / f"{part.name}.npy", getattr(arrays, part.name), allow_pickle=False)
            sha256 = arrays.sha256()
            description = {
                "format": FORMAT,
                "name": name,
                "class_names": list(class_names),
                "sha256": sha256,
                "source": source,
            }
            (staging / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(Path(partial) / "old")
            staging.rename(folder)
    except OSError as error:
        raise DataError(
            f"The data set can't be written to {folder}: {error.strerror or error}. Free some space there"
            " (CIFAR-10 takes 185 MB), or choose another place with the environment variable"
            " HEADSTART_HOME."
        ) from None
    return sha256


def discard_store(folder: Path) -> None:
    """Remove a data set and whatever interrupted writes have left beside it."""
    for leftover in [folder, *folder.parent.glob(f"{folder.name}-*.partial")]:
        shutil.rmtree(leftover, ignore_errors=True)


def open_store(folder: Path) -> Stored:
    """Open a data set and verify every byte of it.

    Raises:
        DataError: A file is missing, damaged or of the wrong kind, or the content is not what was written.
    """
    name, class_names, promised, source = _read_description(folder / _DESCRIPTION)
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
    if sha256 != promised:
        raise DataError(
            f"The images or labels in {folder} are not those that were written: their SHA-256 is"
            f" {sha256[:12]}..., and {_DESCRIPTION} says {promised[:12]}...."
        )
    return Stored(arrays, name, class_names, sha256, source)


def _read_description(path: Path) -> tuple[str, ClassNames, str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a data set of format {FORMAT}, the only one this version reads.")
    for key in ("name", "sha256", "source"):
        if not isinstance(content.get(key), str):
            raise DataError(f"{path}: '{key}' must be a string, but is {content.get(key)!r}.")
    names = content.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'class_names' must be a list of strings, but is {names!r}.")
    return content["name"], ClassNames(tuple(names)), content["sha256"], content["source"]


def _open_images(path: Path) -> UInt8Images:
    try:
        images: UInt8Images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing, damaged or truncated: {error}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            f"{path} must hold uint8 images (n, height, width, 3), but holds {images.dtype} {images.shape}."
        )
    return images


def _read_labels(path: Path, class_names: ClassNames) -> NDArray[np.int64]:
    try:
        labels: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing, damaged or truncated: {error}") from None
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{path} must hold int64 labels (n,), but holds {labels.dtype} {labels.shape}.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(class_names)):
        raise DataError(
            f"{path} holds labels from {labels.min()} to {labels.max()}, but there are {len(class_names)} classes."
        )
    return labels
