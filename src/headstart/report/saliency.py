"""Class-activation maps as layers to lie over the images of mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from headstart.contracts import UInt8Images
from headstart.report.mistakes import LARGEST_SIDE, Mistake, png_uri
from headstart.runs.records import Saliency

_RED = (255, 0, 60)
_STRONGEST = 0.72
"""Opacity of a map's largest value: the image stays visible below."""


@dataclass(frozen=True)
class Look:
    """A mistake with the maps for the predicted class and for the label, ``data:`` URIs of transparent PNGs."""

    mistake: Mistake
    predicted: str
    label: str


def looks(saliency: Saliency | None, mistakes: Sequence[Mistake]) -> list[Look]:
    """Return those of the mistakes that have been explained, in their order."""
    explained = {image.row: image for image in saliency.images} if saliency else {}
    found = []
    for mistake in mistakes:
        image = explained.get(mistake.row)
        if image is None or not {mistake.label, mistake.predicted} <= set(image.maps):
            continue
        height, width = image.size
        said, label = (
            layer(np.asarray(image.maps[name], np.float32), box=image.box, height=height, width=width)
            for name in (mistake.predicted, mistake.label)
        )
        found.append(Look(mistake, said, label))
    return found


def layer(grid: np.ndarray[Any, np.dtype[np.float32]], *, box: Sequence[float], height: int, width: int) -> str:
    """Return a map as a ``data:`` URI of a PNG that is red where the map is strong and transparent where it is 0.

    Args:
        grid: Shape (rows, columns), in [0, 1].
        box: The part of the image that the grid covers: top, left, height and width in pixels.
        height: Height of the image in pixels.
        width: Width of the image in pixels. The layer has its proportions, and at most 96 pixels a side.
    """
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    top, left, tall, wide = (round(length * scale) for length in box)
    opacity = Image.fromarray((grid.clip(0, 1) * 255 * _STRONGEST).astype(np.uint8))
    opacity = opacity.resize((max(1, wide), max(1, tall)), Image.Resampling.BILINEAR)
    whole = Image.new("L", (max(1, round(width * scale)), max(1, round(height * scale))))
    whole.paste(opacity, (left, top))
    colors: UInt8Images = np.empty((*np.asarray(whole).shape, 4), np.uint8)
    colors[..., :3], colors[..., 3] = _RED, np.asarray(whole)
    return png_uri(Image.fromarray(colors))
