"""Training batches: which images, in which order, changed how. All of it follows from (seed, epoch, step)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from headstart.contracts import ClassNames, UInt8Images, listed
from headstart.data.augment import DRAWS, augment
from headstart.data.preprocess import Preprocess
from headstart.data.randomness import epoch_order, sample_uniforms, step_seed
from headstart.data.working_copy import Places, Squares
from headstart.errors import RecipeError, nearest


@dataclass(frozen=True)
class Batch:
    """One optimiser step's share of this process.

    Attributes:
        step: Within the epoch, from 0.
        rows: Positions in the training split, shape (n,).
        view: Which of the fixed views this is; the epoch's number where there are none.
        images: Normalised, shape (n, 3, size, size); or what ``TrainingBatches.hidden`` gives in their place.
        labels: Indices, shape (n,).
        targets: ``labels``, or probabilities of shape (n, classes) after mixup or cutmix.
    """

    step: int
    rows: NDArray[np.int64]
    view: int
    images: Tensor
    labels: Tensor
    targets: Tensor


def check_batch_size(batch_size: int, *, images: int, processes: int = 1) -> None:
    """Raise RecipeError for a batch that does not fit the data or the processes."""
    if batch_size > images:
        raise RecipeError(
            f"finetune.batch_size is {batch_size}, but there are only {images} training images. "
            f"Allowed: 1 to {images}; --set finetune.batch_size={images} takes them all at once."
        )
    if batch_size % processes:
        raise RecipeError(
            f"finetune.batch_size {batch_size} can't be shared by {processes} processes; use a multiple of {processes}."
        )


def check_classes(key: str, named: Iterable[str], class_names: ClassNames) -> None:
    """Raise RecipeError where a recipe's ``key`` names a class that the data does not have."""
    unknown = [name for name in named if name not in class_names.names]
    if unknown:
        guess = nearest(unknown[0], class_names)
        raise RecipeError(
            f"{key} names {listed(unknown)}, which the data does not have.{guess} Classes: {listed(class_names)}."
        )


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of every epoch.

    Attributes:
        squares: What is trained on.
        preprocess: Of the network's input; its size is replaced by each epoch's own.
        sizes: Image size of each epoch, in pixels.
        batch_size: Images in an optimiser step, over all processes.
        seed: Decides everything.
        changes: Keyword arguments of ``augment``.
        stronger: ``trivial`` of ``augment`` for the images of single classes, by name, in place of that in ``changes``.
        views: Number of fixed views; 0 draws anew every epoch.
        hidden: Called with (rows, view, size) for what the network gets in place of images, e.g. what its frozen
            stages made of them; None for the images.
        mixup: Alpha, 0 for none.
        cutmix: Alpha, 0 for none.
        device: Where the batches are made.
        rank: Of this process.
        processes: Sharing each batch.
    """

    squares: Squares
    preprocess: Preprocess
    sizes: Sequence[int]
    batch_size: int
    seed: int
    changes: Mapping[str, Any]
    stronger: Mapping[str, float] = field(default_factory=dict)
    views: int = 0
    hidden: Callable[[NDArray[np.int64], int, int], Tensor] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        """Raise RecipeError for a batch that does not fit the data or the processes."""
        check_batch_size(self.batch_size, images=len(self.squares), processes=self.processes)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the images wait for another epoch's order."""
        return len(self.squares) // self.batch_size

    @property
    def views_in_all(self) -> int:
        """Different views of an image in the whole training; 0 where every epoch draws a new one."""
        operations = self.changes.get("trivial", 0.0) or self.stronger
        draws = self.mixup or self.cutmix or self.changes.get("flip", True) or operations
        crops = self.changes.get("min_scale", 1.0) < 1 or self.changes.get("max_aspect", 1.0) > 1
        return self.views if draws or crops else 1

    @property
    def views_that_return(self) -> list[tuple[int, int]]:
        """Each (view, size) that more than one epoch shows."""
        if not self.views_in_all:
            return []
        shown = Counter((epoch % self.views_in_all, size) for epoch, size in enumerate(self.sizes))
        return [view_and_size for view_and_size, epochs in shown.items() if epochs > 1]

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step ``start`` on."""
        order = epoch_order(seed=self.seed, epoch=epoch, n=len(self.squares))
        view = epoch % self.views_in_all if self.views_in_all else epoch
        share = self.batch_size // self.processes
        for step in range(start, self.steps_per_epoch):
            # Whatever a library draws during this step (dropout, mixup) follows from here.
            torch.manual_seed(step_seed(seed=self.seed, epoch=epoch, step=step))
            first = step * self.batch_size + self.rank * share
            yield self._batch(step, order[first : first + share], view, self.sizes[epoch])
        left_over = order[self.steps_per_epoch * self.batch_size :]
        if self.hidden and len(left_over) and (view, self.sizes[epoch]) in self.views_that_return:
            # Later epochs would miss these images here and there, each time at the price of a whole batch.
            self.hidden(left_over, view, self.sizes[epoch])

    def images(self, rows: NDArray[np.int64], *, view: int, size: int) -> Tensor:
        """Return images as one view shows them: normalised, shape (len(rows), 3, size, size)."""
        draws = torch.from_numpy(_draws(self.seed, view, len(self.squares))[rows]).to(self.device)
        shares = self._shares(rows) if self.stronger else None
        preprocess = self.preprocess.resized(size)

        def changed(pixels: UInt8Images, places: Places) -> Tensor:
            own = {} if shares is None else {"trivial": shares[places]}
            return augment(
                torch.from_numpy(pixels).to(self.device), draws[places], preprocess, **{**self.changes, **own}
            )

        return self.squares.tensor(rows, changed)

    def _shares(self, rows: NDArray[np.int64]) -> Tensor:
        """Return how likely each of these images is to get a random operation, shape (len(rows),)."""
        common = float(self.changes.get("trivial", 0.0))
        of_class = np.array([self.stronger.get(name, common) for name in self.squares.subset.class_names], np.float32)
        return torch.from_numpy(of_class[self.squares.labels[rows]]).to(self.device)

    def _batch(self, step: int, rows: NDArray[np.int64], view: int, size: int) -> Batch:
        labels = torch.from_numpy(self.squares.labels[rows]).to(self.device)
        if self.hidden:
            return Batch(step, rows, view, self.hidden(rows, view, size), labels, labels)
        images, targets = self._mix(self.images(rows, view=view, size=size), labels)
        return Batch(step, rows, view, images, labels, targets)

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        classes = len(self.squares.subset.class_names)
        kinds = [
            kind(alpha=alpha, num_classes=classes)
            for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha
        ]
        if not kinds:
            return images, labels
        chosen = kinds[int(torch.randint(len(kinds), (1,)))]
        mixed, targets = chosen(images, labels)
        return mixed, targets


@lru_cache(maxsize=1)
def _draws(seed: int, view: int, n: int) -> NDArray[np.float32]:
    """Return the uniform numbers of a view, shape (n, DRAWS); drawn once an epoch, not once a batch."""
    return sample_uniforms(seed=seed, epoch=view, n=n, k=DRAWS)


def evaluation_batches(
    squares: Squares, preprocess: Preprocess, *, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) in the subset's own order, without any randomness."""

    def prepared(pixels: UInt8Images, _: Places) -> Tensor:
        return preprocess.tensor(torch.from_numpy(pixels).to(device))

    for start in range(0, len(squares), batch_size):
        positions = np.arange(start, min(start + batch_size, len(squares)))
        yield squares.tensor(positions, prepared), torch.from_numpy(squares.labels[positions]).to(device)
