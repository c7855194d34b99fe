"""From an image of any size to network input, in two halves: one on the host, one on the device that computes.

``Preprocess.square`` fits an image to a square and reduces it with Pillow; it never enlarges, so that what is kept and
what travels to the device is small. ``Preprocess.tensor`` enlarges and normalizes a batch of squares. Training,
evaluation, prediction and exported models all pass through these two, so that they can't disagree about an image.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.contracts import Fit, Interpolation, UInt8Image, UInt8Images

if TYPE_CHECKING:
    from torch import Tensor

CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other values, so that no cache survives
it."""
_REDUCING_GAP = 3.0
"""Pillow first averages whole blocks of pixels where an image is reduced by more than this; the result is nearly the
same, and much faster to compute."""
_KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the values of red, green and blue; raise ValueError for another number of them."""
    red, green, blue = values
    return float(red), float(green), float(blue)


@dataclass(frozen=True)
class Preprocess:
    """How weights want their images; travels with the weights.

    Attributes:
        size: Height and width of the square network input, in pixels.
        mean: Mean per channel (RGB), in units of [0, 1].
        std: Standard deviation per channel (RGB), in units of [0, 1].
        interpolation: Kernel of every resize.
        crop_pct: Share of the square's side that the network sees, from the centre, in (0, 1].
        fit: How an image that is not square becomes one: ``crop`` keeps the central square, ``pad`` adds borders in
            the mean colour, ``stretch`` changes the proportions.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    fit: Fit = "crop"

    @property
    def side(self) -> int:
        """Side of the largest square that ``tensor`` makes use of, in pixels."""
        return round(self.size / self.crop_pct)

    def resized(self, size: int) -> "Preprocess":
        """Return the same preprocessing for network input of another size, in pixels."""
        return replace(self, size=size)

    def square(self, image: UInt8Image, *, side: int | None = None) -> UInt8Image:
        """Fit an image to a square, on the host.

        Args:
            image: uint8, shape (height, width, 3), RGB.
            side: Largest side of the square, in pixels, for images that are used at several sizes; ``self.side`` when
                None.

        Returns:
            uint8, shape (s, s, 3), s at most ``side``. A square image that is no larger is returned as it is.
        """
        limit = side or self.side
        height, width = image.shape[:2]
        if height == width <= limit:
            return image
        if self.fit == "crop":
            edge = min(height, width)
            top, left = (height - edge) // 2, (width - edge) // 2
            if edge <= limit:
                return image[top : top + edge, left : left + edge]
            return self._scaled(image, limit, limit, box=(left, top, left + edge, top + edge))
        longest = max(height, width)
        edge = min(longest, limit)
        if self.fit == "stretch":
            return self._scaled(image, edge, edge)
        inner = self._scaled(image, *(max(1, round(length * edge / longest)) for length in (height, width)))
        top, left = (edge - inner.shape[0]) // 2, (edge - inner.shape[1]) // 2
        padded = np.empty((edge, edge, 3), np.uint8)
        padded[:] = [round(255 * value) for value in self.mean]
        padded[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return padded

    def squares(self, images: UInt8Images, *, side: int | None = None) -> UInt8Images:
        """Fit images of one size to squares, on the host: shapes (n, height, width, 3) and (n, s, s, 3).

        Square images that are no larger than ``side`` are returned as they are; the others are reduced one by one.
        """
        if images.shape[1] == images.shape[2] <= (side or self.side):
            return images
        return np.stack([self.square(image, side=side) for image in images])

    def tensor(self, squares: "Tensor") -> "Tensor":
        """Turn squares into network input, on the device they lie on; works under ``torch.export``.

        Args:
            squares: uint8, shape (n, s, s, 3), RGB, as ``square`` returns them.

        Returns:
            float32, shape (n, 3, size, size), normalized.
        """
        # Torch takes longer to load than a classifier that needs none takes to answer.
        from headstart.data.resize import centre

        planes = squares.permute(0, 3, 1, 2).float() / 255
        if squares.shape[1] != self.size or self.crop_pct != 1:
            planes = centre(planes, size=self.size, crop_pct=self.crop_pct, interpolation=self.interpolation)
        return self.normalize(planes)

    def normalize(self, images: "Tensor") -> "Tensor":
        """Subtract the mean and divide by the standard deviation.

        Args:
            images: float, shape (n, 3, height, width), in [0, 1].
        """
        from headstart.data.resize import normalize

        return normalize(images, self.mean, self.std)

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return which part of an image the network sees: top, left, height and width, in the image's pixels.

        It reaches beyond the image where that is padded.
        """
        tall, wide = float(height), float(width)
        if self.fit != "stretch":
            tall = wide = float(min(height, width) if self.fit == "crop" else max(height, width))
        tall, wide = tall * self.crop_pct, wide * self.crop_pct
        return (height - tall) / 2, (width - wide) / 2, tall, wide

    def fingerprint(self) -> str:
        """Return the SHA-256 of all fields and of the code's version: a part of every cache key."""
        facts = asdict(self) | {"mean": list(map(float, self.mean)), "std": list(map(float, self.std))}
        facts |= {"crop_pct": float(self.crop_pct), "code": CODE_VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def square_fingerprint(self, side: int) -> str:
        """Return the SHA-256 of what decides ``square``: several network inputs may share their squares."""
        edge = list(map(float, self.mean)) if self.fit == "pad" else None
        facts = {"fit": self.fit, "kernel": self.interpolation, "side": side, "edge": edge, "code": CODE_VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _scaled(
        self, image: UInt8Image, height: int, width: int, *, box: tuple[int, int, int, int] | None = None
    ) -> UInt8Image:
        """Return an image, or the part of it in a box (left, top, right, bottom), at another size."""
        if image.shape[:2] == (height, width):
            return image
        whole, kernel = Image.fromarray(np.ascontiguousarray(image)), _KERNELS[self.interpolation]
        scaled = whole.resize((width, height), kernel, box=box, reducing_gap=_REDUCING_GAP)
        pixels: NDArray[np.uint8] = np.array(scaled)
        return pixels
