"""Random changes to a batch of training images, on the device that trains.

Every draw comes from the uniform numbers of one sample (see randomness.py), so an image's change depends on
(seed, epoch, sample) and on nothing else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headstart.data.preprocess import Preprocess
from headstart.data.resize import resample

DRAWS = 7
"""Uniform numbers that ``augment`` consumes per sample."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        flip: Mirror left to right with probability one half.
        min_scale: Smallest share of the area that a crop keeps, in (0, 1].
        max_aspect: Largest ratio of a crop's sides, at least 1.
        trivial: Share of images that get one random operation.
        stronger: That share for single classes by name, in place of ``trivial``.
        mixup: Alpha of mixup's Beta distribution; 0 for none.
        cutmix: Alpha of cutmix's Beta distribution; 0 for none.
    """

    flip: bool = True
    min_scale: float = 1.0
    max_aspect: float = 1.0
    trivial: float = 0.0
    stronger: Mapping[str, float] = field(default_factory=dict)
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def changes_nothing(self) -> bool:
        """Whether every image stays as it is."""
        crops = self.min_scale < 1 or self.max_aspect > 1
        return not (self.flip or crops or self.trivial or self.stronger or self.mixup or self.cutmix)


def augment(
    images: Tensor, draws: Tensor, preprocess: Preprocess, augmentation: Augmentation, *, shares: Tensor | None = None
) -> Tensor:
    """Crop, mirror and distort a batch at random, and normalize it. Mixing is for whole batches, see ``mixing``.

    Args:
        images: uint8, shape (n, height, width, 3), on the device that trains.
        draws: Uniform in [0, 1), shape (n, DRAWS), on the CPU, so that nothing has to wait for the device.
        preprocess: Size, kernel and statistics of the network's input.
        augmentation: Random changes.
        shares: Each image's own share of ``trivial``, shape (n,), on the CPU; None for that of ``augmentation``.

    Returns:
        float32, shape (n, 3, size, size), normalized.
    """
    height, width = images.shape[1:3]
    scale, aspect = augmentation.min_scale, augmentation.max_aspect
    boxes = crop_boxes(draws[:, :4], height, width, min_scale=scale, max_aspect=aspect)
    mirror = to_device(draws[:, 4] < 0.5, images.device) if augmentation.flip else None
    result = resample(
        images,
        to_device(boxes, images.device),
        size=preprocess.size,
        interpolation=preprocess.interpolation,
        mirror=mirror,
    )
    if shares is not None or augmentation.trivial > 0:
        share = augmentation.trivial if shares is None else shares
        result = trivial_augment(result, draws[:, 5], draws[:, 6], share=share)
    return preprocess.normalize(result)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on ``device``, without waiting for what the device is busy with."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def crop_boxes(draws: Tensor, height: int, width: int, *, min_scale: float, max_aspect: float) -> Tensor:
    """Draw crops as in Szegedy et al. 2015 (Inception): uniform area, log-uniform aspect ratio, uniform place.

    Args:
        draws: Uniform in [0, 1), shape (n, 4).
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
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
        images: float, shape (n, 3, height, width), in [0, 1], on the device that trains.
        choice: Uniform in [0, 1), shape (n,), on the CPU: whether, and which.
        strength: Uniform in [0, 1), shape (n,), on the CPU: from one extreme over "unchanged" at 0.5 to the other.
        share: Probability that an image is changed at all; one for all, or each image's own, shape (n,), on the CPU.
    """
    result = images.clone()
    # Which images an operation changes is found on the CPU: asking the device would mean to wait for it.
    chosen = (choice / share * len(OPERATIONS)).long()
    if isinstance(share, Tensor):
        # A share of 0 has divided by zero.
        chosen = chosen.masked_fill(choice >= share, len(OPERATIONS))
    for number, operation in enumerate(OPERATIONS):
        members = torch.from_numpy(np.flatnonzero(chosen.numpy() == number))
        if len(members):
            amount = to_device((2 * strength[members] - 1).view(-1, 1, 1, 1), images.device)
            rows = to_device(members, images.device)
            result[rows] = operation(images[rows], amount).clamp(0, 1)
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


def _solarize(images: Tensor, amount: Tensor) -> Tensor:
    return torch.where(images > 1 - amount.abs() / 2, 1 - images, images)


def _posterize(images: Tensor, amount: Tensor) -> Tensor:
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
    if images.device.type == "mps":
        return _sample_within(images, grid)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _sample_within(images: Tensor, grid: Tensor) -> Tensor:
    """Do what ``grid_sample`` does with border padding, which torch does not have on Apple's GPUs.

    Places beyond the centres of the outermost pixels are moved onto them.
    """
    height, width = images.shape[2:]
    x, y = (grid[..., axis].clamp(1 / length - 1, 1 - 1 / length) for axis, length in enumerate((width, height)))
    return torch.nn.functional.grid_sample(
        images, torch.stack([x, y], dim=-1), padding_mode="zeros", align_corners=False
    )


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _sharpness,
    _solarize,
    _posterize,
    _rotate,
    _shear,
)
