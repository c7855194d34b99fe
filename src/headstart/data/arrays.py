"""Images and labels of a whole data set, in memory or memory-mapped, and their fingerprints.

A memory-mapped array costs only the pages that were touched. The walks over all images here give their pages
back as they go, so that hashing or copying 60,000 images never holds the whole set in memory.
"""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import UInt8Images

BLOCK = 2000
"""Images that are looked at together: 6 MB for CIFAR-10."""


@dataclass(frozen=True)
class Arrays:
    """A data set as its publisher splits it; labels are int64 indices into the class names.

    Attributes:
        train_images: Shape (n, height, width, 3).
        train_labels: Shape (n,).
        test_images: Shape (m, height, width, 3).
        test_labels: Shape (m,).
    """

    train_images: UInt8Images
    train_labels: NDArray[np.int64]
    test_images: UInt8Images
    test_labels: NDArray[np.int64]

    def sha256(self) -> str:
        """Return the one hash that decides whether a copy is the right one, wherever it came from.

        It runs over the training images, test images, training labels and test labels, in this order and
        row-major, labels as little-endian int64; before each goes its shape as text, e.g. ``(50000, 32, 32,
        3)``.
        """
        digest = hashlib.sha256()
        for images in (self.train_images, self.test_images):
            digest.update(_shape(images))
            for block in blocks(images):
                digest.update(np.ascontiguousarray(block).data)
        for labels in (self.train_labels, self.test_labels):
            digest.update(_shape(labels))
            digest.update(labels.astype("<i8").data)
        return digest.hexdigest()


def _shape(array: NDArray[Any]) -> bytes:
    return str(tuple(int(n) for n in array.shape)).encode()


def image_digests(images: UInt8Images) -> NDArray[np.uint8]:
    """Return the SHA-256 of each image as bytes, shape (n, 32).

    Hashed is the image's shape as text, e.g. ``32x32x3``, then its pixels row by row.
    """
    shape = "x".join(str(n) for n in images.shape[1:]).encode()
    digests = bytearray()
    for block in blocks(images):
        for image in np.ascontiguousarray(block):
            digest = hashlib.sha256(shape)
            digest.update(image.data)
            digests += digest.digest()
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def image_hashes(images: UInt8Images) -> list[str]:
    """Return the SHA-256 of each image in hexadecimal, as ``image_digests`` defines it."""
    return [digest.tobytes().hex() for digest in image_digests(images)]


def blocks(images: UInt8Images) -> Iterator[UInt8Images]:
    """Yield all images in order, a few thousand at a time; the pages of a block are given back after it."""
    for start in range(0, len(images), BLOCK):
        yield images[start : start + BLOCK]
        release(images)


def release(images: NDArray[Any]) -> None:
    """Drop a memory-mapped array's pages from this process; they are read again from the file when needed."""
    base: Any = images
    while isinstance(base, np.ndarray):
        base = base.base
    # Only Linux and macOS can give pages back; elsewhere they stay until memory is short.
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
