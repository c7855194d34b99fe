"""From uint8 pictures to network input: crop, resize, mirror and normalise, in batches, on the device that trains.

Training, evaluation and prediction all pass through ``resample``, so that the three can't disagree about a picture. A
crop is resized by two small matrix products, one for the rows and one for the columns. Each row of such a matrix
holds the weights of one output pixel, so that every image of a batch can have its own crop at the cost of a batched
matrix product. The weights are those of an antialiased resize, as in Pillow and ``torch.nn.functional.interpolate``
(Keys 1981, "Cubic convolution interpolation for digital image processing").
"""

import torch
from torch import Tensor

from headstart.contracts import ImageSpec, Interpolation


def preprocess(images: Tensor, spec: ImageSpec) -> Tensor:
    """Turn pictures into what a network trained with ``spec`` expects, without any randomness.

    The shorter side is resized to ``size / crop_pct`` and the central square is kept.

    Args:
        images: uint8, shape (n, height, width, 3), RGB.
        spec: Size and statistics.

    Returns:
        float32, shape (n, 3, size, size), normalised.
    """
    boxes = central_square(images.shape[1], images.shape[2], spec.crop_pct).to(images.device)
    return normalise(resample(images, boxes, size=spec.size, interpolation=spec.interpolation), spec)


def central_square(height: int, width: int, crop_pct: float = 1.0) -> Tensor:
    """Return the box (top, left, height, width), in pixels and shape (1, 4), of the central square."""
    side = min(height, width) * crop_pct
    return torch.tensor([[(height - side) / 2, (width - side) / 2, side, side]])


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
    result = rows.unsqueeze(1) @ planes @ columns.transpose(1, 2).unsqueeze(1)
    # Bicubic weights overshoot at edges; an image file could not hold such values either.
    return result.clamp_(0, 1)


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """Subtract the mean and divide by the standard deviation that the weights were trained with.

    Args:
        images: float, shape (n, 3, height, width), in [0, 1].
        spec: Statistics per channel.
    """
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def _weights(start: Tensor, extent: Tensor, length: int, size: int, interpolation: Interpolation) -> Tensor:
    """Return the resize matrices, shape (n, size, length), of n intervals of an axis with ``length`` pixels."""
    scale = (extent / size).view(-1, 1, 1)
    # A kernel wider than a pixel averages where the picture shrinks.
    stretch = scale.clamp(min=1)
    centres = start.view(-1, 1, 1) + (torch.arange(size, device=start.device) + 0.5).view(1, -1, 1) * scale
    pixels = torch.arange(length, device=start.device).view(1, 1, -1) + 0.5
    distance = ((pixels - centres) / stretch).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    # A centre far outside has no pixel in reach: it takes the nearest edge pixel.
    total = weights.sum(2, keepdim=True)
    nearest = torch.nn.functional.one_hot(centres.squeeze(2).long().clamp(0, length - 1), length).to(weights.dtype)
    return torch.where(total.abs() < 1e-6, nearest, weights / torch.where(total.abs() < 1e-6, 1.0, total))


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
