"""Memory that decoding images takes: estimated for each before it begins, and bounded for all of them together.

The estimates are what Pillow 10 to 13 and its libraries were seen to take for images of each format, rounded up.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Condition, Lock
from typing import Any, BinaryIO

from PIL import Image

from headstart.compute.memory import give_back_freed_memory
from headstart.errors import InputError

DECODING_BYTES = 2**29
"""Memory for all images of this process that are being decoded at one time."""
_PER_PIXEL = {"PNG": 4, "GIF": 4, "BMP": 6, "DIB": 6, "WEBP": 17, "AVIF": 16, "HEIF": 16}
"""Bytes for each pixel that a format's decoder takes, its result included, where that is all there is to say."""
_COEFFICIENTS = 6
"""Bytes for each pixel of a JPEG whose scans hold one part of every pixel each; at a fraction of the size as well."""
_WHOLE_FILE = {"TIFF", "AVIF", "HEIF", "JPEG2000"}
"""Formats whose compressed files are held in memory while they are decoded."""
COUNTED_WHEN_OPENED = {"ICO", "WEBP"}
"""Formats of which ``bytes_to_open`` counts all that they take."""
_TURNED, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 274, 278, 322, 323
_PNG = b"\x89PNG\r\n\x1a\n"


_KEPT = 2**25
"""Freed memory that may stay with this process, in bytes, for each image."""


class _Budget:
    """An amount of memory that threads take parts of, first come, first served."""

    def __init__(self, total: int) -> None:
        self._free = self._total = total
        self._turn = Lock()
        self._changed = Condition()

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        if amount > self._total:
            raise InputError(
                f"decoding it would take about {amount / 1e6:,.0f} MB of memory, and {self._total / 1e6:,.0f} MB are "
                "allowed; make it smaller first, or save it as JPEG"
            )
        if not amount:
            yield
            return
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            if amount > _KEPT:
                give_back_freed_memory()
            with self._changed:
                self._free += amount
                self._changed.notify()


_budget = _Budget(DECODING_BYTES)
reserved = _budget.reserved
"""Context in which so many bytes may be taken for decoding; waits until other threads have given enough back.

Raises InputError where it is more than is allowed for all of them.
"""


def bytes_to_decode(image: Image.Image, fraction: int = 1) -> int:
    """Estimate the memory that loading an opened image takes; a JPEG may be decoded at a ``fraction`` of its size."""
    pixels, form = image.width * image.height, image.format
    if form in COUNTED_WHEN_OPENED:
        return 0
    raw = _codec(image) == "raw"
    if form in {"JPEG", "MPO"}:
        return pixels * _COEFFICIENTS + 4 * pixels // fraction**2
    if form == "TIFF":
        return _tiff_bytes(image, pixels) + (0 if raw else _file_bytes(image))
    if form == "PPM":
        return pixels * (5 if raw else 11)
    if form == "JPEG2000":
        return pixels * (5 + 5 * len(image.getbands())) + _file_bytes(image)
    return pixels * _PER_PIXEL.get(form or "", 8) + _file_bytes(image)


def _tiff_bytes(image: Image.Image, pixels: int) -> int:
    """Return the bytes of the result, of its copy where it is turned, and of one strip or tile, which may be larger."""
    tags = getattr(image, "tag_v2", {})
    strip = min(pixels, _number(tags, _ROWS_PER_STRIP, image.height) * image.width)
    tile = _number(tags, _TILE_WIDTH, 0) * _number(tags, _TILE_LENGTH, 0)
    return pixels * (8 if _number(tags, _TURNED, 1) > 1 else 4) + max(strip, tile) * 8


def _number(tags: Mapping[int, Any], tag: int, otherwise: int) -> int:
    value = tags.get(tag, otherwise)
    return value if isinstance(value, int) else otherwise


def _codec(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    return str(tiles[0][0]) if tiles else ""


@contextmanager
def reading(source: Path | BytesIO) -> Iterator[BinaryIO]:
    """Read a file, or bytes in memory, from the beginning."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


def bytes_to_open(source: Path | BytesIO) -> int:
    """Estimate the memory that an image file takes from when it is opened, where that does more than read its head.

    An ICO file is decoded when it is opened. It tells sizes up to 256 pixels, but the images in it can have any size.
    For a WebP file Pillow makes two canvases when it is opened, and keeps them until the image is gone, so that all of
    its memory is counted here.

    Raises:
        InputError: The file would be read as a whole, and is too large for that.
    """
    with reading(source) as file:
        head = file.read(30)
        webp = head[8:12] == b"WEBP"
        if webp or head[4:8] == b"ftyp":
            if (size := file.seek(0, os.SEEK_END)) > DECODING_BYTES // 4:
                raise InputError(f"the file has {size / 1e6:,.0f} MB, too many for an image of this format")
            return _PER_PIXEL["WEBP"] * _canvas(head) + size if webp else 0
        if head[:4] != b"\0\0\1\0":
            return 0
        file.seek(0)
        return 4 * _largest_icon(file.read(DECODING_BYTES // 4))


def _canvas(head: bytes) -> int:
    """Return the pixels of a WebP file that begins with these 30 bytes; what is damaged has fewer than it says."""
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        sides = int.from_bytes(head[21:25], "little")
        width, height = (1 + (sides >> shift & 0x3FFF) for shift in (0, 14))
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height


def _largest_icon(content: bytes) -> int:
    """Return the pixels of the largest image in an ICO file."""
    largest = 0
    for number in range(struct.unpack_from("<H", content, 4)[0]):
        try:
            (offset,) = struct.unpack_from("<I", content, 6 + 16 * number + 12)
            form, at = (">II", offset + 16) if content[offset : offset + 8] == _PNG else ("<ii", offset + 4)
            width, height = struct.unpack_from(form, content, at)
        except struct.error:  # cut short, as Pillow will say
            break
        largest = max(largest, abs(width * height))
    return largest


def _file_bytes(image: Image.Image) -> int:
    name = getattr(image, "filename", "")
    return Path(name).stat().st_size if name and image.format in _WHOLE_FILE else 0
