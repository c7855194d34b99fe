"""Image files and Pillow images to uint8 RGB arrays, in bounded memory.

- The orientation noted in EXIF is applied.
- Transparency is laid on white.
- 16-bit grey keeps its upper eight bits, as Pillow does for 16-bit colour.
- Palettes, grey, CMYK, YCbCr, HSV and black-and-white become RGB; of several frames the first counts.
- Colours are converted to sRGB where an image holds a colour profile that says otherwise.
- Images beyond Pillow's limit against decompression bombs are refused (``PIL.Image.MAX_IMAGE_PIXELS``), and so are
  images whose decoding would take more memory than ``headstart.data.decoding_memory`` allows.
- Where less is needed than an image holds, a JPEG is decoded at a fraction of its size, and other images are averaged
  in blocks of pixels before they are converted.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from headstart.contracts import Fit, UInt8Image
from headstart.data.colour import Profile, profile_of
from headstart.data.decoding_memory import COUNTED_WHEN_OPENED, bytes_to_decode, bytes_to_open, reading, reserved
from headstart.data.quiet_pillow import quiet_pillow
from headstart.data.window import AS_IT_IS, Window, jpeg_fraction, window
from headstart.errors import InputError

CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other pixels."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO")
"""What is decoded. Pillow knows more, some of which start other programs (EPS) or fetch other files."""
_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
LARGEST_FILE = 2**31
"""Bytes; a larger file is no image that could be decoded, and hashing it could take for ever."""
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
_DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N"}
_CONVERTED = {
    "P": "a palette",
    "PA": "a palette",
    "L": "grey",
    "LA": "grey",
    "1": "black and white",
    "I": "16-bit grey",
}
"""What an image was, by its mode, for people; other modes go by their own name."""
_HEIC = "a HEIC image, which needs pillow-heif; install it with: pip install 'headstart[heic]'"
_NO_MEMORY = "too large for the memory of this machine"
_PASSING = (_HEIC, _NO_MEMORY, "no permission", "no such file", "a link that leads", "can't be read (")
"""How those reasons begin that lie in the machine, its network or the installation, not in an image."""


class MorePixelsError(InputError):
    """An image has more pixels than are allowed."""


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the endings of file names, in lower case, of all formats that are decoded here.

    Those of HEIC are always among them: without pillow-heif such a file is answered with what to install.
    """
    formats = {*_formats(), *(("MPO",) if "JPEG" in _formats() else ())}
    return _HEIC_SUFFIXES | {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def decode_file(path: Path, *, at_least: int | None = None, fit: Fit | None = None) -> UInt8Image:
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


def decode_bytes(
    content: bytes, *, at_least: int | None = None, fit: Fit | None = None, most_pixels: int | None = None
) -> UInt8Image:
    """Read an encoded image from memory, like ``decode_file``; MorePixelsError tells of more than ``most_pixels``."""
    with opened_image(BytesIO(content)) as image:
        if most_pixels is not None and image.width * image.height > most_pixels:
            raise MorePixelsError(f"more than {most_pixels:,} pixels; make it smaller first")
        return _pixels(image, at_least, fit, ours=True)


@contextmanager
def opened_image(source: Path | BytesIO) -> Iterator[Image.Image]:
    """Open an image file, of which only the head is read at first, or one in memory, and yield it.

    Raises:
        InputError: It can't be read, now or in the body; the message is a short reason without the path.
    """
    _check_source(source)
    try:
        with quiet_pillow, reserved(bytes_to_open(source)), Image.open(source, formats=_formats()) as image:
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(_unknown(source)) from None
    except Image.DecompressionBombError:
        raise InputError(_too_large()) from None
    except MemoryError:
        raise InputError(_NO_MEMORY) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(_unreadable(error)) from None
        # Pillow's decoders raise whatever damage trips them into: OSError, SyntaxError, struct.error, ...
        raise InputError(f"damaged or cut short ({str(error) or type(error).__name__})") from None


def may_pass(reason: str) -> bool:
    """Return whether an image that can't be read for this reason may be readable later, although it did not change."""
    return reason.startswith(_PASSING)


def _unknown(source: Path | BytesIO) -> str:
    with suppress(OSError), reading(source) as file:
        head = file.read(12)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and "HEIF" not in _formats():
            return _HEIC
    return f"not an image in a format that can be read ({', '.join(sorted(_formats()))})"


def changes(image: Image.Image) -> tuple[str, ...]:
    """Return what decoding will change of an opened image, a few words each; empty where it stays as it is.

    Example:
        ``("turned (EXIF orientation 6)", "CMYK", 'colour profile "Adobe RGB (1998)" converted to sRGB')``
    """
    found, turn = [], orientation(image)
    if turn in _TURNS:
        found.append(f"turned (EXIF orientation {turn})")
    if image.mode not in {"RGB", "RGBA"}:
        found.append("16-bit grey" if _is_deep(image) else _CONVERTED.get(image.mode, image.mode))
    if image.has_transparency_data:
        found.append("transparency laid on white")
    if image.format != "MPO" and _is_animated(image):
        found.append("first of several frames")
    if note := profile_of(image).note:
        found.append(note)
    return tuple(found)


def _is_animated(image: Image.Image) -> bool:
    with suppress(Exception):  # damage behind the first frame, which is all that counts
        return bool(getattr(image, "is_animated", False))
    return False


def _is_deep(image: Image.Image) -> bool:
    return image.mode in _DEEP_GREY or (image.mode == "I" and image.format == "PNG")


def to_rgb(image: Image.Image, *, at_least: int | None = None, fit: Fit | None = None) -> NDArray[np.uint8]:
    """Return a Pillow image as an array of shape (height, width, 3), RGB.

    Args:
        image: It is loaded where it is not yet, and otherwise left as it is.
        at_least: As for ``decode_file``.
        fit: As for ``decode_file``.

    Raises:
        InputError: It is larger than Pillow's limit, or its values have no defined range.
    """
    with quiet_pillow:
        return _pixels(image, at_least, fit, ours=False)


def _pixels(image: Image.Image, at_least: int | None, fit: Fit | None, *, ours: bool) -> NDArray[np.uint8]:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise InputError(_too_large())
    deep = _is_deep(image)
    if image.mode in {"I", "F"} and not deep:
        raise InputError("32-bit grey values have no defined range; save the image with 8 or 16 bits")
    if image.mode == "LAB":
        raise InputError("images in the LAB colour space can't be read; save it as RGB")
    # Only a decoder that nobody else uses may be told to decode less.
    fraction = jpeg_fraction(image.size, at_least, fit) if ours and image.format in {"JPEG", "MPO"} else 1
    needed = 0
    if (ours and image.format not in COUNTED_WHEN_OPENED) or getattr(image, "tile", None):  # otherwise it is loaded
        whole = (max(1, image.width // fraction), max(1, image.height // fraction))
        needed = bytes_to_decode(image, fraction) + window(whole, AS_IT_IS, at_least, fit).result_bytes
    with reserved(needed):
        if fraction > 1:
            image.draft(None, (max(1, image.width // fraction), max(1, image.height // fraction)))
        try:
            image.load()
            turn = _TURNS.get(orientation(image), AS_IT_IS)
            pixels = _converted(image, window(image.size, turn, at_least, fit), profile_of(image))
        finally:
            if ours:  # while its memory still counts
                image.close()
                image.__dict__.pop("_decoder", None)  # which holds the canvases of WebP and AVIF until then
    return _upright(pixels, turn)


def _converted(image: Image.Image, kept: Window, profile: Profile) -> NDArray[np.uint8]:
    """Convert and reduce an image strip by strip, since every step of a conversion takes a copy."""
    result = np.empty(kept.shape, np.uint8)
    down = kept.block[1]
    rows = max(1, _STRIP // (kept.width * down)) * down
    right, bottom = kept.left + kept.width, kept.top + kept.height
    inverted = image.mode == "CMYK" and image.format in {"JPEG", "MPO"} and "adobe" not in image.info
    for top in range(kept.top, bottom, rows):
        box = (kept.left, top, right, min(top + rows, bottom))
        strip = image if box == (0, 0, *image.size) else image.crop(box)
        # Pillow inverts every CMYK JPEG, as Adobe's programs write them and say so.
        rgb = _strip_to_rgb(ImageChops.invert(strip) if inverted else strip, profile, deep=_is_deep(image))
        if kept.block != (1, 1):
            rgb = rgb.reduce(kept.block)
        if profile.mode in {"RGB", "L"}:
            rgb = profile.to_srgb(rgb if profile.mode == "RGB" else rgb.getchannel(0))
        start = (top - kept.top) // down
        result[start : start + rgb.height] = np.asarray(rgb)
    return result


def _strip_to_rgb(strip: Image.Image, profile: Profile, *, deep: bool) -> Image.Image:
    if deep:
        upper = (np.asarray(strip).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if profile.mode == "CMYK":
        return profile.to_srgb(strip)
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return strip if strip.mode == "RGB" else strip.convert("RGB")


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


def _check_source(path: Path | BytesIO) -> None:
    """Tell apart what Pillow would complain about in its own words; a named pipe would even block it."""
    if isinstance(path, BytesIO):
        if not path.getbuffer().nbytes:
            raise InputError("the file is empty")
        return
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if not status.st_size:
            raise InputError("the file is empty")
        if status.st_size > LARGEST_FILE:
            raise InputError(f"{status.st_size:,} bytes, more than any image has")
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
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    return "no permission to read it" if isinstance(error, PermissionError) else f"can't be read ({error.strerror})"


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first"


@cache
def _formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that the installed Pillow can read, with pillow-heif where that is installed."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)
