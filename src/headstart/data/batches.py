"""Training batches: which images, in which order, changed how. All of it follows from (seed, epoch, step)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headstart.compute.processes import ALONE, Processes
from headstart.contracts import ClassNames, UInt8Images, listed
from headstart.data.arrays import BLOCK
from headstart.data.augment import DRAWS, Augmentation, augment, to_device
from headstart.data.mixing import mix
from headstart.data.preprocess import Preprocess
from headstart.data.randomness import balanced_order, epoch_order, mixing_generator, sample_uniforms, step_seed
from headstart.data.working_copy import Places, Squares
from headstart.errors import RecipeError, nearest


@dataclass(frozen=True)
class Batch:
    """This process's share of one optimizer step.

    Attributes:
        step: Number of the step within the epoch, from 0.
        seed: Seed for what the network draws in this step, e.g. for dropout.
        rows: Positions in the training split, shape (n,).
        images: Normalized, shape (n, 3, size, size); or what ``TrainingBatches.hidden`` gives in their place.
        labels: Class indices, shape (n,).
        targets: ``labels``, or probabilities of shape (n, classes) after mixup or cutmix.
    """

    step: int
    seed: int
    rows: NDArray[np.int64]
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
class Resident:
    """Squares that lie on the device that trains, so that no batch has to travel.

    Attributes:
        stacks: Squares of one side each, as in ``Squares.stacks``, uint8; only those of the training split.
        place: Place of each image in its stack, shape (n,).
    """

    stacks: tuple[Tensor, ...] = field(repr=False)
    place: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, squares: Squares, device: torch.device) -> "Resident":
        """Return squares on a device."""
        place, stacks = np.empty(len(squares), np.int64), []
        for number, stack in enumerate(squares.stacks):
            members = np.flatnonzero(squares.stack == number)
            place[members] = np.arange(len(members))
            # Part by part, since all of them together may be more than the host has memory for.
            parts = np.array_split(squares.place[members], len(members) // BLOCK + 1)
            stacks.append(torch.cat([torch.from_numpy(stack[part]).to(device) for part in parts]))
        return cls(tuple(stacks), place)


def resident_where_it_fits(squares: Squares, device: torch.device) -> Resident | None:
    """Return the squares on a CUDA device that has room for them; None where batches are copied one by one.

    They may take a quarter of the free memory; the network needs the rest. On a CPU they lie where they are needed
    already.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    sides = np.array([stack.shape[1] for stack in squares.stacks])
    needed = int((3 * sides[squares.stack] ** 2).sum())
    return Resident.of(squares, device) if needed <= free // 4 else None


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of every epoch.

    Attributes:
        squares: Training images.
        preprocess: Input of the network; its size is replaced by each epoch's own.
        sizes: Image size of each epoch, in pixels.
        batch_size: Images in an optimizer step, over all processes.
        seed: Seed of everything that is drawn.
        augmentation: Random changes to the images.
        balanced: Whether every class is equally frequent in an epoch, so that images of rare classes come repeatedly.
        views: Number of fixed views; 0 draws new changes in every epoch.
        hidden: Called with (rows, view, size) for what the network gets in place of images, e.g. what its frozen
            stages made of them; None for the images.
        device: Device on which the batches are made.
        resident: The squares on that device; None where they are copied batch by batch.
        processes: Processes that share each batch.
    """

    squares: Squares
    preprocess: Preprocess
    sizes: Sequence[int]
    batch_size: int
    seed: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    balanced: bool = False
    views: int = 0
    hidden: Callable[[NDArray[np.int64], int, int], Tensor] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resident: Resident | None = None
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        """Raise RecipeError for a batch that does not fit the data or the processes."""
        check_batch_size(self.batch_size, images=len(self.squares), processes=self.processes.world)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the images wait for another epoch's order."""
        return len(self.squares) // self.batch_size

    @property
    def views_in_all(self) -> int:
        """Different views of an image in the whole training; 0 where every epoch draws a new one."""
        return 1 if self.augmentation.changes_nothing else self.views

    @property
    def views_that_return(self) -> list[tuple[int, int]]:
        """Each (view, size) that more than one epoch shows."""
        if not self.views_in_all:
            return []
        shown = Counter((epoch % self.views_in_all, size) for epoch, size in enumerate(self.sizes))
        return [view_and_size for view_and_size, epochs in shown.items() if epochs > 1]

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step ``start`` on; making one does not touch torch's random state."""
        if self.balanced:
            order = balanced_order(self.squares.labels, seed=self.seed, epoch=epoch)
        else:
            order = epoch_order(seed=self.seed, epoch=epoch, n=len(self.squares))
        view = epoch % self.views_in_all if self.views_in_all else epoch
        share = self.batch_size // self.processes.world
        for step in range(start, self.steps_per_epoch):
            first = step * self.batch_size + self.processes.rank * share
            rows = order[first : first + share]
            # An image that comes twice in an epoch is changed in two ways, unless the views are fixed.
            own_draws = self.balanced and not self.views_in_all
            yield self._batch(epoch, step, rows, view, np.arange(first, first + share) if own_draws else rows)
        left_over = order[self.steps_per_epoch * self.batch_size :]
        if self.hidden and len(left_over) and (view, self.sizes[epoch]) in self.views_that_return:
            # Later epochs would miss these images here and there, each time at the price of a whole batch.
            self.hidden(left_over, view, self.sizes[epoch])

    def images(
        self, rows: NDArray[np.int64], *, view: int, size: int, drawn: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Return images as one view shows them: normalized, shape (len(rows), 3, size, size).

        Each is changed by the random numbers of its own row, or by those at ``drawn``, shape (len(rows),).
        """
        draws = torch.from_numpy(_draws(self.seed, view, len(self.squares))[rows if drawn is None else drawn])
        shares = self._shares(rows) if self.augmentation.stronger else None
        preprocess = self.preprocess.resized(size)

        def changed(number: int, chosen: NDArray[np.int64], places: Places) -> Tensor:
            own = None if shares is None else shares[places]
            return augment(self._pixels(number, chosen), draws[places], preprocess, self.augmentation, shares=own)

        return self.squares.gather(rows, changed)

    def _pixels(self, number: int, rows: NDArray[np.int64]) -> Tensor:
        """Return squares of one stack on the device: uint8, shape (len(rows), s, s, 3)."""
        if self.resident is None:
            return to_device(torch.from_numpy(self.squares.stacks[number][self.squares.place[rows]]), self.device)
        index = to_device(torch.from_numpy(self.resident.place[rows]), self.device)
        return self.resident.stacks[number].index_select(0, index)

    def _shares(self, rows: NDArray[np.int64]) -> Tensor:
        """Return how likely each of these images is to get a random operation, shape (len(rows),)."""
        stronger, common = self.augmentation.stronger, self.augmentation.trivial
        of_class = np.array([stronger.get(name, common) for name in self.squares.subset.class_names], np.float32)
        return torch.from_numpy(of_class[self.squares.labels[rows]])

    def _batch(self, epoch: int, step: int, rows: NDArray[np.int64], view: int, drawn: NDArray[np.int64]) -> Batch:
        key = {"seed": self.seed, "epoch": epoch, "step": step, "rank": self.processes.rank}
        labels = to_device(torch.from_numpy(self.squares.labels[rows]), self.device)
        if self.hidden:
            return Batch(step, step_seed(**key), rows, self.hidden(rows, view, self.sizes[epoch]), labels, labels)
        images, targets = self.images(rows, view=view, size=self.sizes[epoch], drawn=drawn), labels
        mixup, cutmix = self.augmentation.mixup, self.augmentation.cutmix
        if mixup or cutmix:
            classes = len(self.squares.subset.class_names)
            images, targets = mix(
                images, labels, classes=classes, mixup=mixup, cutmix=cutmix, generator=mixing_generator(**key)
            )
        return Batch(step, step_seed(**key), rows, images, labels, targets)


def prepared_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the same batches, each of which a thread makes while the one before it is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        upcoming = thread.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = thread.submit(next, batches, None)
            yield batch


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
