"""One image of any kind that a Predictor takes, as the square that the network sees."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.contracts import UInt8Images
from headstart.data.decode import decode_file, to_rgb
from headstart.data.preprocess import Preprocess
from headstart.errors import InputError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


def square_of(image: object, preprocess: Preprocess) -> UInt8Images | str:
    """Return the square that the network sees of an image, shape (s, s, 3), or a short reason why there is none."""
    at_least, fit = preprocess.side, preprocess.fit
    try:
        if isinstance(image, str | os.PathLike):
            pixels = decode_file(Path(image), at_least=at_least, fit=fit)
        elif isinstance(image, Image.Image):
            pixels = to_rgb(image, at_least=at_least, fit=fit)
        else:
            pixels = _checked_array(image)
    except InputError as error:
        return str(error)
    return preprocess.square(pixels)


def unreadable(image: object, reason: str) -> InputError:
    """Return the error that there is for an image, naming a file."""
    if not isinstance(image, str | os.PathLike):
        return InputError(f"{reason}.")
    path = os.fspath(image)
    advice = f" Give its images, as in sorted(Path({path!r}).iterdir())."
    inside = advice if os.path.isdir(path) else ""  # noqa: PTH112 (pathlib raises for a path that is too long)
    return InputError(f"{path}: {reason}.{inside}")


def name_of(image: object, place: int) -> str:
    """Return how a message names an image: by its path, or by its place among those that were given."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {place}"


def wrong_kind(value: object) -> str:
    """Return why a value is no image."""
    return f"an image must be a path, a Pillow image or a uint8 array, not {type(value).__name__}"


def _checked_array(image: object) -> UInt8Images:
    if not isinstance(image, np.ndarray):
        raise InputError(wrong_kind(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an array must be uint8 (0 to 255) of shape (height, width, 3), RGB, but this one is {image.dtype} of "
            f"shape {image.shape}"
        )
    return image
