"""The most confident mistakes, with their images inside the page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from headstart.contracts import UInt8Images
from headstart.runs.predictions import PredictionRow

Thumbnails = Callable[[int], UInt8Images]
"""From an image's row in the data set to its pixels, shape (height, width, 3)."""

MISTAKES_SHOWN = 24
"""Mistakes on the page of a run."""

LARGEST_SIDE = 96
"""Pixels; larger images are reduced to this."""


@dataclass(frozen=True)
class Mistake:
    """One wrongly classified image, ready for the page; ``picture`` is a ``data:`` URI of a PNG, ``file`` its path."""

    row: int
    label: str
    predicted: str
    probability: float
    picture: str
    file: str = ""


def most_confident(predictions: Sequence[PredictionRow], thumbnails: Thumbnails, *, count: int) -> list[Mistake]:
    """Return the ``count`` mistakes with the highest probability, highest first, then by row."""
    return [
        Mistake(p.row, p.label, p.predicted, p.probability, data_uri(thumbnails(p.row)), p.file)
        for p in worst(predictions, count=count)
    ]


def worst(predictions: Sequence[PredictionRow], *, count: int) -> list[PredictionRow]:
    """Return the rows that ``most_confident`` shows, in its order."""
    return sorted((p for p in predictions if p.label != p.predicted), key=lambda p: (-p.probability, p.row))[:count]


def data_uri(pixels: UInt8Images) -> str:
    """Return an image of shape (height, width, 3) as a ``data:`` URI, at most 96 pixels a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return png_uri(picture)


def png_uri(picture: Image.Image) -> str:
    """Return an image as the ``data:`` URI of a PNG."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
