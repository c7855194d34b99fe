"""Training images as the network sees them, for the pages; apart from ``thumbnails``, since this needs torch."""

from pathlib import Path

import numpy as np
import torch

from headstart.bundle.config import check_config, read_config
from headstart.contracts import UInt8Image
from headstart.data.dataset import Dataset
from headstart.data.preprocess import Preprocess

SAMPLES = 24


def fed_samples(model: Path, dataset: Dataset) -> list[tuple[str, UInt8Image]]:
    """Return training images with their classes as the network sees them: the first of each class, then the second.

    Images that lie in an array of squares are fed as they are, so that there is nothing to show.
    """
    if dataset.train.source.array is not None:
        return []
    preprocess: Preprocess = check_config(read_config(model), model)["preprocess"]
    labels, names = dataset.train.labels, list(dataset.class_names)
    seen = np.zeros(len(names), np.int64)
    turns = np.empty(len(labels), np.int64)
    for position, label in enumerate(labels.tolist()):
        turns[position] = seen[label]
        seen[label] += 1
    chosen = np.lexsort((labels, turns))[:SAMPLES]
    return [
        (names[labels[i]], _fed(dataset.train.image(i, at_least=preprocess.side), preprocess)) for i in chosen.tolist()
    ]


def _fed(image: UInt8Image, preprocess: Preprocess) -> UInt8Image:
    """Return the pixels of the network's input, before they are normalized: shape (size, size, 3)."""
    fed = preprocess.tensor(torch.from_numpy(preprocess.square(image).copy())[None])[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pixels: UInt8Image = (fed * std + mean).mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels
