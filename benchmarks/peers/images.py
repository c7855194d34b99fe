"""The images and weights that every rival is given."""

from itertools import islice
from pathlib import Path

import timm
from PIL import Image
from safetensors.torch import save_file

from headstart.data.dataset import load_dataset
from headstart.models.package_weights import PACKAGES, read_package

ARCHITECTURE = "tf_efficientnet_lite0"
TRAIN_IMAGES = 10_000


def write_cifar10(folder: Path, limit: int = TRAIN_IMAGES, test_limit: int | None = None) -> Path:
    """Write CIFAR-10's first training images, and its test images, as PNG files; return the folder of both."""
    place = folder / f"cifar10-{limit}-{test_limit or 'all'}"
    if (place / "complete").is_file():
        return place / "images"
    dataset = load_dataset("cifar10", limit=limit)
    parts = {"train": dataset.train, "test": dataset.sealed_test.open()}
    for part, subset in parts.items():
        rows = zip(subset.rows.tolist(), subset.labels.tolist(), strict=True)
        for row, label in islice(rows, test_limit if part == "test" else None):
            path = place / "images" / part / subset.class_names[label] / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(subset.source.image(row)).save(path)
    (place / "complete").touch()
    return place / "images"


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
