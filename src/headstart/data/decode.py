"""Picture files and Pillow images to uint8 RGB arrays.

- The orientation noted in EXIF is applied.
- Transparency is laid on white.
- 16-bit grey keeps its upper eight bits, as Pillow does for 16-bit colour.
- Palettes, grey, CMYK, YCbCr, HSV and black-and-white become RGB; of several frames the first counts.
- Pictures beyond Pillow's limit against decompression bombs are refused (``PIL.Image.MAX_IMAGE_PIXELS``).
"""

import os
import stat
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from headstart.errors import InputError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is decoded. Pillow knows more, some of which start other programs (EPS) or fetch other files."""


def decode_file(path: Path) -> NDArray[np.uint8]:
    """Read a picture file.

    Returns:
        Shape (height, width, 3), RGB.

    Raises:
        InputError: The message is a short reason without the path.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=_formats()) as image:
            return to_rgb(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"not a picture in a format that can be read ({', '.join(sorted(_formats()))})") from None
    except Image.DecompressionBombError:
        raise InputError(_too_large()) from None
    except MemoryError:
        raise InputError("too large for the memory of this machine") from None
    except Exception as error:
        # Pillow's decoders raise whatever damage trips them into: OSError, SyntaxError, struct.error, ...
        raise InputError(f"damaged or cut short ({str(error) or type(error).__name__})") from None


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a Pillow image as an array of shape (height, width, 3), RGB.

    Raises:
        InputError: It is larger than Pillow's limit, or its values have no defined range.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise InputError(_too_large())
    image.load()
    image = _upright(image)
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N"} or (image.mode == "I" and image.format == "PNG"):
        upper = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(upper[:, :, None], 3, axis=2)
    if image.mode in {"I", "F"}:
        raise InputError("32-bit grey values have no defined range; save the picture with 8 or 16 bits")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return np.array(Image.alpha_composite(white, picture).convert("RGB"))
    if image.mode == "LAB":
        raise InputError("pictures in the LAB colour space can't be read; save it as RGB")
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:
        # A damaged EXIF block says nothing about the pixels, which are fine: it can raise nearly anything.
        return image
    # Pillow forgets the format of what it turned, and with it what the numbers of mode I mean.
    turned.format = image.format
    return turned


def _check_file(path: Path) -> None:
    """Tell apart what Pillow would complain about in its own words; a named pipe would even block it."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise InputError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        if not path.stat().st_size:
            raise InputError("the file is empty")
        if not os.access(path, os.R_OK):
            raise InputError("no permission to read it")
    except FileNotFoundError:
        raise InputError("a link that leads nowhere" if path.is_symlink() else "no such file") from None
    except OSError as error:
        raise InputError(f"can't be read ({error.strerror})") from None


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first"


@cache
def _formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
