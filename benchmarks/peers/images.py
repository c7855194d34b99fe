"""The images and weights that every rival is given."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import timm
from PIL import Image
from safetensors.torch import save_file

from headstart.data.dataset import Dataset, load_dataset
from headstart.models.package_weights import PACKAGES, read_package

ARCHITECTURE = "tf_efficientnet_lite0"
PHOTOGRAPH = (640, 480)
_GRAIN, _QUALITY = 18, 85
"""Noise, in grey levels, and quality that make a JPEG file of about 100 kB, as a camera's of that size has."""


def write_images(folder: Path, kind: str, train: int, test: int) -> Path:
    """Write the first training and test images of CIFAR-10 in class folders, and return the folder of both.

    Args:
        kind: ``png``, as they are; or ``jpeg``, enlarged to ``PHOTOGRAPH`` pixels with grain, to cost what photographs
            cost to read.
    """
    place = folder / f"{kind}-{train}-{test}"
    if not (place / "complete").is_file():
        dataset = load_dataset("cifar10", limit=max(train, 100))
        for part, count in (("train", train), ("test", test)):
            for label, row, pixels in islice(_images(dataset, part), count):
                path = place / "images" / part / label / f"{row:05d}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(pixels)
                if kind == "jpeg":
                    _photograph(image, row).save(path, quality=_QUALITY)
                else:
                    image.save(path)
        (place / "complete").touch()
    return place / "images"


def _images(dataset: Dataset, part: str) -> Iterator[tuple[str, int, np.ndarray]]:
    subset = dataset.train if part == "train" else dataset.sealed_test.open()
    for row, label in zip(subset.rows.tolist(), subset.labels.tolist(), strict=True):
        yield subset.class_names[label], row, subset.source.image(row)


def _photograph(image: Image.Image, seed: int) -> Image.Image:
    grain = np.random.default_rng(seed).integers(-_GRAIN, _GRAIN + 1, (PHOTOGRAPH[1], PHOTOGRAPH[0], 1), np.int16)
    pixels = np.asarray(image.resize(PHOTOGRAPH, Image.Resampling.BICUBIC)) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_weights(folder: Path) -> Path:
    """Write the ImageNet weights of the network with timm's names, and return the file."""
    path = folder / f"{ARCHITECTURE}.safetensors"
    if not path.is_file():
        network = timm.create_model(ARCHITECTURE)
        state, _ = read_package(PACKAGES[f"{ARCHITECTURE}.in1k"], network)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return path
