"""Random changes to a batch of training images, on the device that trains.

Every draw comes from the uniform numbers of one sample (see randomness.py), so an image's change depends on
(seed, epoch, sample) and on nothing else.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from headstart.data.preprocess import Preprocess, resample

DRAWS = 7
"""Uniform numbers that ``augment`` consumes per sample."""


def augment(
    images: Tensor,
    draws: Tensor,
    preprocess: Preprocess,
    *,
    flip: bool = True,
    min_scale: float = 1.0,
    max_aspect: float = 1.0,
    trivial: float | Tensor = 0.0,
) -> Tensor:
    """Crop, mirror and distort a batch at random, and normalize it.

    Args:
        images: uint8, shape (n, height, width, 3).
        draws: Uniform in [0, 1), shape (n, DRAWS).
        preprocess: Size, kernel and statistics of the network's input.
        flip: Mirror left to right with probability one half.
        min_scale: Smallest share of the area that a crop keeps, in (0, 1].
        max_aspect: Largest ratio of a crop's sides, at least 1.
        trivial: Share of images that get one random operation; one for all, or each image's own, shape (n,).

    Returns:
        float32, shape (n, 3, size, size), normalized.
    """
    boxes = crop_boxes(draws[:, :4], images.shape[1], images.shape[2], min_scale=min_scale, max_aspect=max_aspect)
    mirror = draws[:, 4] < 0.5 if flip else None
    result = resample(images, boxes, size=preprocess.size, interpolation=preprocess.interpolation, mirror=mirror)
    if isinstance(trivial, Tensor) or trivial > 0:
        result = trivial_augment(result, draws[:, 5], draws[:, 6], share=trivial)
    return preprocess.normalize(result)


def crop_boxes(draws: Tensor, height: int, width: int, *, min_scale: float, max_aspect: float) -> Tensor:
    """Draw crops as in Szegedy et al. 2015 (Inception): uniform area, log-uniform aspect ratio, uniform place.

    Args:
        draws: Uniform in [0, 1), shape (n, 4).
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        min_scale: Smallest share of the central square's area.
        max_aspect: Largest ratio of the sides.

    Returns:
        Shape (n, 4): top, left, height, width in pixels, within the image.
    """
    side = min(height, width)
    area = min_scale + (1 - min_scale) * draws[:, 0]
    aspect = torch.exp((2 * draws[:, 1] - 1) * math.log(max_aspect))
    box_height = (side * torch.sqrt(area / aspect)).clamp(max=float(height))
    box_width = (side * torch.sqrt(area * aspect)).clamp(max=float(width))
    return torch.stack(
        [draws[:, 2] * (height - box_height), draws[:, 3] * (width - box_width), box_height, box_width], dim=1
    )


def trivial_augment(images: Tensor, choice: Tensor, strength: Tensor, *, share: float | Tensor) -> Tensor:
    """Apply one operation of random strength to a share of the images (Müller and Hutter 2021, TrivialAugment).

    Args:
        images: float, shape (n, 3, height, width), in [0, 1].
        choice: Uniform in [0, 1), shape (n,): whether, and which.
        strength: Uniform in [0, 1), shape (n,): from one extreme over "unchanged" at 0.5 to the other.
        share: Probability that an image is changed at all; one for all, or each image's own, shape (n,).
    """
    result = images.clone()
    chosen = (choice / share * len(OPERATIONS)).long()
    if isinstance(share, Tensor):
        # A share of 0 has divided by zero.
        chosen = torch.where(choice < share, chosen, len(OPERATIONS))
    for number, operation in enumerate(OPERATIONS):
        members = (chosen == number).nonzero().squeeze(1)
        if len(members):
            amount = (2 * strength[members] - 1).view(-1, 1, 1, 1)
            result[members] = operation(images[members], amount).clamp(0, 1)
    return result


def _brightness(images: Tensor, amount: Tensor) -> Tensor:
    return images * (1 + 0.9 * amount)


def _contrast(images: Tensor, amount: Tensor) -> Tensor:
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    return mean + (images - mean) * (1 + 0.9 * amount)


def _saturation(images: Tensor, amount: Tensor) -> Tensor:
    grey = _grey(images)
    return grey + (images - grey) * (1 + 0.9 * amount)


def _sharpness(images: Tensor, amount: Tensor) -> Tensor:
    blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return blurred + (images - blurred) * (1 + 0.9 * amount)


def _solarise(images: Tensor, amount: Tensor) -> Tensor:
    return torch.where(images > 1 - amount.abs() / 2, 1 - images, images)


def _posterise(images: Tensor, amount: Tensor) -> Tensor:
    levels = 2 ** (8 - (6 * amount.abs()).round())
    return (images * levels).floor() / levels


def _rotate(images: Tensor, amount: Tensor) -> Tensor:
    angle = amount.view(-1) * math.radians(45)
    return _affine(images, torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle))


def _shear(images: Tensor, amount: Tensor) -> Tensor:
    one, lean = torch.ones_like(amount.view(-1)), 0.5 * amount.view(-1)
    return _affine(images, one, lean, torch.zeros_like(one), one)


def _affine(images: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    zero = torch.zeros_like(xx)
    matrix = torch.stack([torch.stack([xx, xy, zero], 1), torch.stack([yx, yy, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _sharpness,
    _solarise,
    _posterise,
    _rotate,
    _shear,
)
