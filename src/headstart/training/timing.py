"""How fast this machine trains and predicts: a few real steps of the actual network, timed."""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch

from headstart.compute.precision import Arithmetic, autocast, choose_arithmetic, laid_out
from headstart.compute.processes import ALONE
from headstart.data.batches import evaluation_batches
from headstart.data.dataset import Dataset
from headstart.data.subset import Subset
from headstart.models.freeze import suggested_rate
from headstart.models.heads import head_of
from headstart.recipe.schema import Recipe
from headstart.training.build import learner, training_batches
from headstart.training.material import Material, assemble

SAMPLE = 96
"""Images that are read for timing."""
_ROUNDS = (3, 5)
"""Fewest and most calls that are timed; the fewest where the machine is slow or busy, since a budget pays for them."""
_ENOUGH = 3.0
"""Seconds of timing after which no more than the fewest calls are made."""


@dataclass(frozen=True)
class Speed:
    """How fast a network is, and what else of it the choice depends on.

    Attributes:
        sizes: Image sizes in pixels at which was measured, in ascending order.
        train: Seconds per image of training at each of them.
        forward: Seconds per image of a forward pass at each of them.
        read: Seconds to read an image; 0 where the images lie in an array.
        features: Number of features that go into the head.
        rate: Peak learning rate that suits this kind of network.
    """

    sizes: tuple[int, ...]
    train: tuple[float, ...]
    forward: tuple[float, ...]
    read: float = 0.0
    features: int = 1280
    rate: float = 3e-4

    def train_at(self, size: int) -> float:
        """Return the seconds per image of training at a size."""
        return self._at(size, self.train)

    def forward_at(self, size: int) -> float:
        """Return the seconds per image of a forward pass at a size."""
        return self._at(size, self.forward)

    def _at(self, size: int, seconds: tuple[float, ...]) -> float:
        # Between two sizes the time grows with the number of pixels; beyond them it is in proportion.
        area, areas = size * size, [s * s for s in self.sizes]
        if not areas[0] <= area <= areas[-1]:
            end = 0 if area < areas[0] else -1
            return seconds[end] * area / areas[end]
        return float(np.interp(area, areas, seconds))


def sample_material(
    recipe: Recipe, dataset: Dataset, device: torch.device, *, progress: bool
) -> tuple[Material, float]:
    """Return the network of a recipe with a few images from all over the data set, and the seconds to read one."""
    train = dataset.train
    places = np.unique(np.linspace(0, len(train) - 1, SAMPLE).astype(np.int64))
    few = Subset(train.source, train.rows[places], train.name)
    started = time.perf_counter()
    if train.source.array is None:
        for row in few.rows:
            train.source.image(int(row), at_least=max(recipe.image_sizes))
    read = (time.perf_counter() - started) / len(few) if train.source.array is None else 0.0
    return assemble(recipe, dataset, (few, few), device, progress=progress), read


def fastest_arithmetic(recipe: Recipe, material: Material, size: int) -> Arithmetic:
    """Return the fastest arithmetic for images of a size."""
    sample = next(
        evaluation_batches(material.train, material.preprocess.resized(size), batch_size=16, device=material.device)
    )[0]
    return choose_arithmetic(
        material.classifier,
        sample,
        architecture=material.backbone.architecture,
        # Features and heads are computed in full precision, whatever a fine-tuned network is trained in.
        precision=recipe.hardware.precision if recipe.finetune else "fp32",
        memory_format=recipe.hardware.memory_format,
    )


def measure_speed(
    recipe: Recipe, material: Material, arithmetic: Arithmetic, sizes: Sequence[int], *, read: float
) -> Speed:
    """Time the steps of a recipe at several image sizes; the network stays as it was."""
    train, forward = [], []
    for size in sizes:
        train.append(_training_seconds(recipe, material, arithmetic, size) if recipe.finetune else 0.0)
        forward.append(_forward_seconds(material, arithmetic, size))
    features = next(head_of(material.classifier).parameters()).shape[1]
    return Speed(tuple(sizes), tuple(train), tuple(forward), read, features, suggested_rate(material.classifier))


def _training_seconds(recipe: Recipe, material: Material, arithmetic: Arithmetic, size: int) -> float:
    assert recipe.finetune
    # A class of which no image is here has no weight.
    tune = recipe.finetune.model_copy(
        update={"class_weights": None, "batch_size": min(recipe.finetune.batch_size, len(material.train) // 2)}
    )
    own = replace(material, classifier=laid_out(deepcopy(material.classifier), arithmetic.torch_format))
    batches = replace(training_batches(tune, own, recipe.seed, ALONE), sizes=[size] * 2)
    working = learner(recipe, tune, own, arithmetic, ALONE, frozen=None, steps=8)
    working.start()
    working.optimization.set_rate(0)

    def steps() -> int:
        batch = next(batches.epoch(0))
        working.step(batch).tolist()  # waits for the device
        return len(batch.labels)

    return _median(steps)


def _forward_seconds(material: Material, arithmetic: Arithmetic, size: int) -> float:
    module = laid_out(material.classifier, arithmetic.torch_format).eval()

    @torch.inference_mode()
    def batch() -> int:
        images, labels = next(
            evaluation_batches(material.train, material.preprocess.resized(size), batch_size=32, device=material.device)
        )
        with autocast(material.device, arithmetic.precision):
            module(images.contiguous(memory_format=arithmetic.torch_format)).float().sum().item()
        return len(labels)

    return _median(batch)


def _median(work: Callable[[], int]) -> float:
    """Return the median time of a few calls, in seconds per image; the first pays for set-up and is not counted."""
    work()
    speeds: list[float] = []
    fewest, most = _ROUNDS
    begun = ended = time.perf_counter()
    while len(speeds) < (most if ended - begun < _ENOUGH else fewest):
        images, started = work(), ended
        ended = time.perf_counter()
        speeds.append(images / (ended - started))
    return 1 / statistics.median(speeds)
