"""Mixup and cutmix: images of a batch mixed with each other, and their labels alike."""

import math

import numpy as np
import torch
from torch import Tensor


def mix(
    images: Tensor, labels: Tensor, *, classes: int, mixup: float, cutmix: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it in the batch.

    Args:
        images: Shape (n, 3, height, width).
        labels: Class indices, shape (n,).
        classes: Number of classes.
        mixup: Alpha of mixup's Beta distribution (Zhang et al. 2018); 0 for none.
        cutmix: Alpha of cutmix's Beta distribution (Yun et al. 2019); 0 for none. With both, one of the two is drawn.
        generator: Decides everything; numbers from the host, so that nothing waits for the device.

    Returns:
        The mixed images, and the shares of the classes in each: shape (n, classes), rows sum to 1.
    """
    alphas = [("mixup", mixup), ("cutmix", cutmix)]
    kind, alpha = [(kind, alpha) for kind, alpha in alphas if alpha][
        int(generator.integers(bool(mixup) + bool(cutmix)))
    ]
    own = float(generator.beta(alpha, alpha))
    if kind == "mixup":
        mixed = images * own + images.roll(1, 0) * (1 - own)
    else:
        top, left, bottom, right = _box(own, images.shape[2], images.shape[3], generator)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    indicators = (labels.unsqueeze(1) == torch.arange(classes, device=labels.device)).to(images.dtype)
    return mixed, indicators * own + indicators.roll(1, 0) * (1 - own)


def _box(own: float, height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Return what is cut out: a box around any point that takes ``1 - own`` of the area, but for what lies outside."""
    half = 0.5 * math.sqrt(1 - own)
    row, column = int(generator.integers(height)), int(generator.integers(width))
    half_height, half_width = int(half * height), int(half * width)
    return (
        max(row - half_height, 0),
        max(column - half_width, 0),
        min(row + half_height, height),
        min(column + half_width, width),
    )
