"""From an image of any size to network input, in two halves: one on the host, one on the device that computes.

``Preprocess.square`` fits an image to a square and reduces it with Pillow; it never enlarges, so that what is kept and
what travels to the device is small. ``Preprocess.tensor`` enlarges and normalizes a batch of squares. Training,
evaluation, prediction and exported models all pass through these two, so that they can't disagree about an image.

A square is resized by two small matrix products, one for the rows and one for the columns. Each row of such a matrix
holds the weights of one output pixel, so that every image of a batch can have its own crop at the cost of a batched
matrix product. The weights are those of an antialiased resize, as in Pillow and ``torch.nn.functional.interpolate``
(Keys 1981, "Cubic convolution interpolation for digital image processing").
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headstart.contracts import Fit, Interpolation, UInt8Image, UInt8Images

CODE_VERSION = 1
"""Version of the arithmetic in this module; raised by every change that gives other values, so that no cache survives
it."""
_REDUCING_GAP = 3.0
"""Pillow first averages whole blocks of pixels where an image is reduced by more than this; the result is nearly the
same, and much faster to compute."""
_KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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

    def tensor(self, squares: Tensor) -> Tensor:
        """Turn squares into network input, on the device they lie on; works under ``torch.export``.

        Args:
            squares: uint8, shape (n, s, s, 3), RGB, as ``square`` returns them.

        Returns:
            float32, shape (n, 3, size, size), normalized.
        """
        planes = squares.permute(0, 3, 1, 2).to(torch.float32) / 255
        if squares.shape[1] != self.size or self.crop_pct != 1:
            # A tensor that is made while a graph is being traced must not be kept for later.
            matrix = (_matrix.__wrapped__ if torch.compiler.is_compiling() else _matrix)(
                squares.shape[1], self.size, self.crop_pct, self.interpolation, squares.device
            )
            planes = (matrix @ planes @ matrix.transpose(2, 3)).clamp_(0, 1)
        return self.normalize(planes)

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation.

        Args:
            images: float, shape (n, 3, height, width), in [0, 1].
        """
        column = _column.__wrapped__ if torch.compiler.is_compiling() else _column
        normalized: Tensor = (images - column(self.mean, images.device)) / column(self.std, images.device)
        return normalized

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


def resample(
    images: Tensor, boxes: Tensor, *, size: int, interpolation: Interpolation, mirror: Tensor | None = None
) -> Tensor:
    """Cut a box out of each image and resize it to a square.

    Args:
        images: uint8, shape (n, height, width, 3).
        boxes: float, shape (n, 4) or (1, 4) for all: top, left, height, width in pixels; may be fractional. Pixels
            beyond the edge repeat the edge.
        size: Side of the result in pixels.
        interpolation: ``bilinear`` or ``bicubic``; both antialiased where they shrink.
        mirror: bool, shape (n,): which results to flip left to right.

    Returns:
        float32, shape (n, 3, size, size), in [0, 1].
    """
    top, left, box_height, box_width = boxes.to(torch.float32).unbind(1)
    rows = _weights(top, box_height, images.shape[1], size, interpolation)
    columns = _weights(left, box_width, images.shape[2], size, interpolation)
    if mirror is not None:
        columns = torch.where(mirror.view(-1, 1, 1), columns.flip(1), columns)
    planes = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    # Bicubic weights overshoot at edges; an image file could not hold such values either.
    return (rows.unsqueeze(1) @ planes @ columns.transpose(1, 2).unsqueeze(1)).clamp_(0, 1)


@lru_cache(maxsize=64)
def _matrix(side: int, size: int, crop_pct: float, interpolation: Interpolation, device: torch.device) -> Tensor:
    """Return what resizes the central part of a square's side to ``size`` pixels: shape (1, 1, size, side)."""
    # Kept for whoever comes next, who may want gradients to pass through what it is multiplied with.
    with torch.inference_mode(False):
        extent = side * crop_pct
        start, length = torch.tensor([(side - extent) / 2]), torch.tensor([extent])
        return _weights(start, length, side, size, interpolation).unsqueeze(1).to(device)


@lru_cache(maxsize=64)
def _column(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Return one value for each channel, shape (1, 3, 1, 1)."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _weights(start: Tensor, extent: Tensor, length: int, size: int, interpolation: Interpolation) -> Tensor:
    """Return the resize matrices, shape (n, size, length), of n intervals of an axis with ``length`` pixels."""
    scale = (extent / size).view(-1, 1, 1)
    # A kernel wider than a pixel averages where the image shrinks.
    stretch = scale.clamp(min=1)
    centres = start.view(-1, 1, 1) + (torch.arange(size, device=start.device) + 0.5).view(1, -1, 1) * scale
    pixels = torch.arange(length, device=start.device).view(1, 1, -1) + 0.5
    distance = ((pixels - centres) / stretch).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    # A centre far outside has no pixel in reach: it takes the nearest edge pixel.
    total = weights.sum(2, keepdim=True)
    out_of_reach = total.abs() < 1e-6
    # Without one_hot, which looks at the values and so waits for the device.
    nearest = (centres.long().clamp(0, length - 1) + 0.5 == pixels).to(weights.dtype)
    return torch.where(out_of_reach, nearest, weights / total.masked_fill(out_of_reach, 1.0))


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
