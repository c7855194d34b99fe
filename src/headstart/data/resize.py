"""The device half of ``Preprocess``: squares are enlarged or cut and resized in batches, and normalized.

A square is resized by two small matrix products, one for the rows and one for the columns. Each row of such a matrix
holds the weights of one output pixel, so that every image of a batch can have its own crop at the cost of a batched
matrix product. The weights are those of an antialiased resize, as in Pillow and ``torch.nn.functional.interpolate``
(Keys 1981, "Cubic convolution interpolation for digital image processing").
"""

from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from headstart.contracts import Interpolation

RGB: TypeAlias = tuple[float, float, float]


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


def centre(planes: Tensor, *, size: int, crop_pct: float, interpolation: Interpolation) -> Tensor:
    """Resize the central part of squares: shapes (n, 3, side, side) and (n, 3, size, size), both in [0, 1]."""
    # A tensor that is made while a graph is being traced must not be kept for later.
    matrix = (_matrix.__wrapped__ if torch.compiler.is_compiling() else _matrix)(
        planes.shape[2], size, crop_pct, interpolation, planes.device
    )
    return (matrix @ planes @ matrix.transpose(2, 3)).clamp_(0, 1)


def normalize(images: Tensor, mean: RGB, std: RGB) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel, for images (n, 3, height, width)."""
    column = _column.__wrapped__ if torch.compiler.is_compiling() else _column
    normalized: Tensor = (images - column(mean, images.device)) / column(std, images.device)
    return normalized


@lru_cache(maxsize=64)
def _matrix(side: int, size: int, crop_pct: float, interpolation: Interpolation, device: torch.device) -> Tensor:
    """Return what resizes the central part of a square's side to ``size`` pixels: shape (1, 1, size, side)."""
    # Kept for whoever comes next, who may want gradients to pass through what it is multiplied with.
    with torch.inference_mode(False):
        extent = side * crop_pct
        start, length = torch.tensor([(side - extent) / 2]), torch.tensor([extent])
        return _weights(start, length, side, size, interpolation).unsqueeze(1).to(device)


def resize_matrix(whole: Tensor, side: int, size: int, crop_pct: float, interpolation: Interpolation) -> Tensor:
    """Return what ``centre`` multiplies with, shape (1, 1, size, side), for a side that is known only to a graph.

    Args:
        whole: The side as a tensor, float32, shape (1,).
        side: The same as a number, which may be a symbol.
        size: As for ``centre``, like the rest.
        crop_pct: Share of the side that is kept.
        interpolation: Kernel.
    """
    extent = whole * crop_pct
    return _weights((whole - extent) / 2, extent, side, size, interpolation).unsqueeze(1)


@lru_cache(maxsize=64)
def _column(values: RGB, device: torch.device) -> Tensor:
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
