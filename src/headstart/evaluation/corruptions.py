"""Corrupted images: noise, blur, weather and compression, in five severities each.

Kinds and severities are those of CIFAR-10-C (Hendrycks and Dietterich, 2019, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", arXiv:1903.12261; severities from its ``make_cifar_c.py``), which are scaled for
images of 32 pixels; lengths grow with the shorter side of larger ones. The images are made here, with torchvision,
Pillow and torch, so figures can be compared between runs of headstart, but not with those on the published files:

- fog is made of blended random grids with the published decay, instead of the diamond-square algorithm;
- contrast pulls towards an image's mean gray, as torchvision does, instead of each channel's mean;
- an elastic displacement is chosen where a pixel comes from, not where it goes to;
- frost, snow, glass and zoom blur are left out: they need photographs of ice, ImageMagick, or a loop over pixels.
"""

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from headstart.contracts import UInt8Images

SEVERITIES = (1, 2, 3, 4, 5)
_TOGETHER = 250
"""Images made at once. Their random numbers depend on it."""


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt images.

    Attributes:
        category: ``noise``, ``blur``, ``weather`` or ``digital``.
        apply: From images, float of shape (n, 3, height, width) in [0, 1], and a setting to images of that kind, which
            may lie a little outside [0, 1]. Draws from torch's global random state.
        settings: The setting of each severity, mildest first.
    """

    category: str
    apply: Callable[[Tensor, Any], Tensor]
    settings: tuple[Any, ...]


def corrupt(images: UInt8Images, name: str, severity: int, *, seed: int) -> UInt8Images:
    """Corrupt images; the same arguments give the same images, and the global random state stays as it was.

    Args:
        images: Shape (n, height, width, 3).
        name: A key of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Decides every random number, together with name, severity and place among the images.

    Returns:
        As ``images``, in new memory.
    """
    corruption = CORRUPTIONS[name]
    setting = corruption.settings[severity - 1]
    result = np.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        for start in range(0, len(images), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            key = np.random.SeedSequence([seed, zlib.crc32(name.encode()), severity, start])
            torch.default_generator.manual_seed(int(key.generate_state(1, np.uint32)[0]))
            planes = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2).float() / 255
            changed = corruption.apply(planes, setting).clamp(0, 1).mul(255).round().byte()
            result[part] = changed.permute(0, 2, 3, 1).numpy()
    return result


def _gaussian_noise(images: Tensor, sigma: float) -> Tensor:
    noisy: Tensor = transforms.gaussian_noise(images, sigma=sigma)
    return noisy


def _shot_noise(images: Tensor, photons: float) -> Tensor:
    return torch.poisson(images * photons) / photons


def _impulse_noise(images: Tensor, share: float) -> Tensor:
    dice = torch.rand_like(images)
    return images.masked_fill(dice < share, 1.0).masked_fill(dice < share / 2, 0.0)


def _gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    return _smooth(images, sigma * _scale(images))


def _motion_blur(images: Tensor, setting: tuple[float, float]) -> Tensor:
    """Drag each image out in a direction of its own, at most 45 degrees from level, fading like half a Gaussian."""
    radius, sigma = (length * _scale(images) for length in setting)
    angle = torch.empty(len(images)).uniform_(-math.pi / 4, math.pi / 4)
    direction = torch.stack([angle.cos(), angle.sin()], dim=1).view(-1, 1, 1, 2)
    steps = torch.arange(1 + int(min(2 * radius, 4 * sigma)))
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    blurred = torch.zeros_like(images)
    for step, weight in zip(steps.tolist(), (weights / weights.sum()).tolist(), strict=True):
        blurred += weight * _moved(images, (step * direction).expand(-1, *images.shape[2:], 2))
    return blurred


def _fog(images: Tensor, setting: tuple[float, float]) -> Tensor:
    strength, decay = setting
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * _clouds(images, decay)) * brightest / (brightest + strength)


def _clouds(images: Tensor, decay: float) -> Tensor:
    """Return random grids, each twice as fine and ``decay`` squared times as faint as the one before, in [0, 1]."""
    n, _, height, width = images.shape
    clouds, amplitude = torch.zeros(n, 1, height, width), 1.0
    for cells in (2, 4, 8, 16, 32):
        grid = torch.empty(n, 1, cells, cells).uniform_(-1, 1)
        clouds += amplitude * F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        amplitude /= decay**2
    clouds -= clouds.amin((2, 3), keepdim=True)
    return clouds / clouds.amax((2, 3), keepdim=True).clamp(min=1e-6)


def _brightness(images: Tensor, added: float) -> Tensor:
    """Add to the value of HSV; torchvision multiplies instead, which leaves a dark image dark."""
    value = images.amax(1, keepdim=True)
    brighter = images * (value + added).clamp(max=1) / value.clamp(min=1e-6)
    return torch.where(value > 0, brighter, added)


def _contrast(images: Tensor, factor: float) -> Tensor:
    flatter: Tensor = transforms.adjust_contrast(images, factor)
    return flatter


def _elastic(images: Tensor, setting: tuple[float, float, float]) -> Tensor:
    """Bend by a smoothed random field and by a random affine map; lengths are shares of the shorter side."""
    n, _, height, width = images.shape
    side = min(height, width)
    strength, sigma, jitter = (length * side for length in setting)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) * side / 3
    moved = corners + torch.empty(n, 3, 2).uniform_(-jitter, jitter)
    affine = torch.linalg.solve(torch.cat([corners, torch.ones(3, 1)], 1), moved)
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=2).view(1, -1, 3)
    shift = (places @ affine - places[..., :2]).view(n, height, width, 2)
    if strength:
        field = _smooth(torch.empty(n, 2, height, width).uniform_(-1, 1), sigma)
        shift = shift + strength * field.permute(0, 2, 3, 1)
    return _moved(images, shift)


def _pixelate(images: Tensor, share: float) -> Tensor:
    def coarser(image: Image.Image) -> Image.Image:
        small = image.resize([max(1, int(side * share)) for side in image.size], Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

    return _each(images, coarser)


def _jpeg(images: Tensor, quality: int) -> Tensor:
    """By Pillow, because torchvision is giving up its own encoder."""

    def compressed(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return _each(images, compressed)


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change each image with Pillow."""
    pixels = images.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255


def _smooth(images: Tensor, sigma: float) -> Tensor:
    # Mirroring at the edge needs a kernel that is smaller than the image.
    radius = min(max(1, math.ceil(4 * sigma)), min(images.shape[2:]) - 1)
    smooth: Tensor = transforms.gaussian_blur(images, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
    return smooth


def _moved(images: Tensor, shift: Tensor) -> Tensor:
    """Take each pixel from elsewhere: ``shift`` has shape (n, height, width, 2), x and y in pixels."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y], dim=2) + shift
    grid = (2 * places + 1) / torch.tensor([width, height]) - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _scale(images: Tensor) -> float:
    return min(images.shape[2:]) / 32


CORRUPTIONS = {
    "Gaussian noise": Corruption("noise", _gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": Corruption("noise", _shot_noise, (500.0, 250.0, 100.0, 75.0, 50.0)),
    "impulse noise": Corruption("noise", _impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "Gaussian blur": Corruption("blur", _gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "motion blur": Corruption("blur", _motion_blur, ((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5))),
    "fog": Corruption("weather", _fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": Corruption("weather", _brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption("digital", _contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic": Corruption(
        "digital",
        _elastic,
        ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Corruption("digital", _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "JPEG": Corruption("digital", _jpeg, (80, 65, 58, 50, 40)),
}
"""What is measured, by the name that the page shows."""
