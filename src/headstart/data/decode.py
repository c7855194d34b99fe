"""Image files and Pillow images to uint8 RGB arrays, in bounded memory.

- The orientation noted in EXIF is applied.
- Transparency is laid on white.
- 16-bit grey keeps its upper eight bits, as Pillow does for 16-bit colour.
- Palettes, grey, CMYK, YCbCr, HSV and black-and-white become RGB; of several frames the first counts.
- Images beyond Pillow's limit against decompression bombs are refused (``PIL.Image.MAX_IMAGE_PIXELS``), and so are
  images whose decoding would take more memory than ``headstart.data.decoding_memory`` allows.
- Where less is needed than an image holds, a JPEG is decoded at a fraction of its size, and other images are averaged
  in blocks of pixels before they are converted.
"""

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from headstart.contracts import Fit
from headstart.data.decoding_memory import bytes_to_decode, bytes_to_open, reserved
from headstart.errors import InputError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is decoded. Pillow knows more, some of which start other programs (EPS) or fetch other files."""
_DRAFT_GAP, _BLOCK_GAP = 2, 3
"""How much larger than needed an image stays, at least, when it is reduced by a JPEG decoder or in blocks. Less would
show in the result of the resize that follows."""
_REACH = 2
"""How many pixels of the result a bicubic resize looks at, on each side of one."""
_STRIP = 2**18
"""Pixels that are converted together."""
_ORIENTATION = 0x0112
_TURNS = {
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}
"""How EXIF's orientations become upright: mirror left and right, mirror top and bottom, then swap rows and columns."""
_AS_IT_IS = (False, False, False)
_DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N"}


@dataclass(frozen=True)
class _Window:
    """The part of an image that is kept, in pixels, and the blocks whose averages become its pixels."""

    left: int
    top: int
    width: int
    height: int
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        across, down = self.block
        return -(-self.height // down), -(-self.width // across), 3

    @property
    def result_bytes(self) -> int:
        return math.prod(self.shape)


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the endings of file names, in lower case, of all formats that are decoded here."""
    formats = {*_formats(), *(("MPO",) if "JPEG" in _formats() else ())}
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def decode_file(path: Path, *, at_least: int | None = None, fit: Fit | None = None) -> NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: A file in one of ``FORMATS``, whatever its name.
        at_least: Pixels that the side which decides the resize must keep; a larger image may come back reduced, but
            never below this. The whole image when None.
        fit: How the image will become a square. What the square does not show is then not converted: outside the
            centre for ``crop``, and detail that ``pad`` or ``stretch`` loses. Only used together with ``at_least``.

    Returns:
        Shape (height, width, 3), RGB.

    Raises:
        InputError: The message is a short reason without the path.
    """
    with opened_image(path) as image:
        return _pixels(image, at_least, fit, ours=True)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file, of which only the head is read at first, and yield it.

    Raises:
        InputError: It can't be read, now or in the body; the message is a short reason without the path.
    """
    _check_file(path)
    try:
        with _quiet_pillow, reserved(bytes_to_open(path)), Image.open(path, formats=_formats()) as image:
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"not an image in a format that can be read ({', '.join(sorted(_formats()))})") from None
    except Image.DecompressionBombError:
        raise InputError(_too_large()) from None
    except MemoryError:
        raise InputError("too large for the memory of this machine") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(_unreadable(error)) from None
        # Pillow's decoders raise whatever damage trips them into: OSError, SyntaxError, struct.error, ...
        raise InputError(f"damaged or cut short ({str(error) or type(error).__name__})") from None


def to_rgb(image: Image.Image, *, at_least: int | None = None, fit: Fit | None = None) -> NDArray[np.uint8]:
    """Return a Pillow image as an array of shape (height, width, 3), RGB.

    Args:
        image: It is loaded where it is not yet, and otherwise left as it is.
        at_least: As for ``decode_file``.
        fit: As for ``decode_file``.

    Raises:
        InputError: It is larger than Pillow's limit, or its values have no defined range.
    """
    with _quiet_pillow:
        return _pixels(image, at_least, fit, ours=False)


def _pixels(image: Image.Image, at_least: int | None, fit: Fit | None, *, ours: bool) -> NDArray[np.uint8]:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise InputError(_too_large())
    deep = image.mode in _DEEP_GREY or (image.mode == "I" and image.format == "PNG")
    if image.mode in {"I", "F"} and not deep:
        raise InputError("32-bit grey values have no defined range; save the image with 8 or 16 bits")
    if image.mode == "LAB":
        raise InputError("images in the LAB colour space can't be read; save it as RGB")
    # Only a decoder that nobody else uses may be told to decode less.
    fraction = _fraction(image.size, at_least, fit) if ours and image.format in {"JPEG", "MPO"} else 1
    needed = 0
    if (ours and image.format != "ICO") or getattr(image, "tile", None):  # otherwise it is loaded
        whole = (max(1, image.width // fraction), max(1, image.height // fraction))
        needed = bytes_to_decode(image, fraction) + _window(whole, _AS_IT_IS, at_least, fit).result_bytes
    with reserved(needed):
        if fraction > 1:
            image.draft(None, (max(1, image.width // fraction), max(1, image.height // fraction)))
        try:
            image.load()
            turn = _TURNS.get(orientation(image), _AS_IT_IS)
            pixels = _converted(image, _window(image.size, turn, at_least, fit), deep=deep)
        finally:
            if ours:  # while its memory still counts
                image.close()
    return _upright(pixels, turn)


def _fraction(size: tuple[int, int], at_least: int | None, fit: Fit | None) -> int:
    """Return the divisor of a JPEG's size that can be decoded directly: 1, 2, 4 or 8."""
    if at_least is None:
        return 1
    deciding = max(size) if fit == "pad" else min(size)
    return next((divisor for divisor in (8, 4, 2) if deciding >= divisor * _DRAFT_GAP * at_least), 1)


def _window(size: tuple[int, int], turn: tuple[bool, bool, bool], at_least: int | None, fit: Fit | None) -> _Window:
    width, height = size
    left = top = 0
    if at_least is None:
        return _Window(left, top, width, height, (1, 1))
    edge = min(size)
    deciding = {"stretch": size, "pad": (max(size), max(size))}.get(fit or "", (edge, edge))
    across, down = (max(1, side // (_BLOCK_GAP * at_least)) for side in deciding)
    if fit == "crop":
        left, width = _middle(width, edge, -(-_REACH * edge // at_least), block=across, mirrored=turn[0])
        top, height = _middle(height, edge, -(-_REACH * edge // at_least), block=down, mirrored=turn[1])
    # Whole blocks only, from the middle: a block that reaches beyond the edge would move all that is beside it.
    spare_x, spare_y = (extent % block if extent > block else 0 for extent, block in ((width, across), (height, down)))
    return _Window(left + spare_x // 2, top + spare_y // 2, width - spare_x, height - spare_y, (across, down))


def _middle(length: int, edge: int, margin: int, *, block: int, mirrored: bool) -> tuple[int, int]:
    """Return start and length of the middle of an axis, with the same margin on both sides where there is room.

    The resize that follows looks at pixels beyond the edge of what it keeps.
    """
    # Where one pixel can't be shared between two sides, the upright image decides.
    start = (length - edge + mirrored) // 2
    wanted = -(-margin // block) * block
    room = min(start, length - edge - start) // block * block
    margin = min(wanted, room)
    return start - margin, edge + 2 * margin


def _converted(image: Image.Image, window: _Window, *, deep: bool) -> NDArray[np.uint8]:
    """Convert and reduce an image strip by strip, since every step of a conversion takes a copy."""
    result = np.empty(window.shape, np.uint8)
    down = window.block[1]
    rows = max(1, _STRIP // (window.width * down)) * down
    right, bottom = window.left + window.width, window.top + window.height
    for top in range(window.top, bottom, rows):
        box = (window.left, top, right, min(top + rows, bottom))
        strip = image if box == (0, 0, *image.size) else image.crop(box)
        rgb = _strip_to_rgb(strip, deep=deep)
        if window.block != (1, 1):
            rgb = rgb.reduce(window.block)
        start = (top - window.top) // down
        result[start : start + rgb.height] = np.asarray(rgb)
    return result


def _strip_to_rgb(strip: Image.Image, *, deep: bool) -> Image.Image:
    if deep:
        upper = (np.asarray(strip).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return strip.convert("RGB")


def orientation(image: Image.Image) -> Any:
    """Return the orientation that EXIF notes: 1 or None for an upright image, 5 and above for one on its side."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        # A damaged EXIF block says nothing about the pixels, which are fine: it can raise nearly anything.
        return None


def _upright(pixels: NDArray[np.uint8], turn: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    sideways, upside_down, swapped = turn
    if sideways:
        pixels = pixels[:, ::-1]
    if upside_down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if swapped else pixels)


def _check_file(path: Path) -> None:
    """Tell apart what Pillow would complain about in its own words; a named pipe would even block it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if not status.st_size:
            raise InputError("the file is empty")
        if not os.access(path, os.R_OK):
            raise InputError("no permission to read it")
    except FileNotFoundError:
        raise InputError("a link that leads nowhere" if path.is_symlink() else "no such file") from None
    except OSError as error:
        raise InputError(_unreadable(error)) from None
    except InputError:
        raise
    except ValueError as error:  # a null character
        raise InputError(f"no file can have this name ({error})") from None


def _unreadable(error: OSError) -> str:
    return "no permission to read it" if isinstance(error, PermissionError) else f"can't be read ({error.strerror})"


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first"


@cache
def _formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class _QuietPillow:
    """Keeps Pillow's warnings about odd but readable files from the user's terminal while an image is decoded.

    Filters of warnings are the whole process's. ``warnings.catch_warnings`` would restore a list that another thread
    has changed meanwhile; this adds one entry when the first of several threads begins to decode, and removes that
    entry when the last one ends.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._decoding = 0
        self._filters: list[Any] = []
        self._added: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            self._decoding += 1
            if self._decoding > 1:
                return
            self._filters = warnings.filters  # type: ignore[assignment]
            before = len(self._filters)
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # Where the user has the same filter, it is the user's that stays.
            self._added = self._filters[:1] if len(self._filters) > before else []

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._decoding -= 1
            if self._decoding == 0 and self._added and self._added[0] in self._filters:
                self._filters.remove(self._added[0])


_quiet_pillow = _QuietPillow()
