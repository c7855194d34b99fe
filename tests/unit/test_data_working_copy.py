"""Working copies: small square arrays are taken as they are, all other images are read and reduced once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.contracts import ClassNames
from headstart.data.augment import Augmentation
from headstart.data.batches import Resident, TrainingBatches, evaluation_batches
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy

PREPROCESS = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
NAMES = ClassNames(("cat", "dog"))


class Mixed:
    """A source as a folder of images is one: each has its own size, and is counted when it is read."""

    classes, groups, array = NAMES, None, None

    def __init__(self, shapes=((8, 8), (30, 20), (5, 5), (8, 12), (5, 7), (40, 40))):
        generator = np.random.default_rng(0)
        self.images = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        self.targets = np.arange(len(shapes), dtype=np.int64) % 2
        self.read = []

    def __len__(self):
        return len(self.images)

    def identity(self, row):
        return f"{row:064x}"

    def image(self, row, *, at_least=None):
        self.read.append((row, at_least))
        return self.images[row]


def array_source(side):
    images = np.random.default_rng(0).integers(0, 256, (10, side, side, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(10, dtype=np.int64) % 2, NAMES)


def pixels_of(squares):
    """Every square, in order."""
    return [squares.stacks[k][j] for k, j in zip(squares.stack, squares.place, strict=True)]


def test_an_array_of_small_squares_is_its_own_working_copy():
    source = array_source(8)
    squares = working_copy(Subset(source, np.array([7, 2]), "val"), PREPROCESS)
    assert np.shares_memory(squares.stacks[0], source.array)
    assert np.array_equal(pixels_of(squares), source.array[[7, 2]])
    assert squares.labels.tolist() == [1, 0]


def test_an_array_of_large_squares_is_reduced_unless_they_are_wanted_so():
    source = array_source(16)
    subset = Subset(source, np.array([7, 2]), "val")
    squares = working_copy(subset, PREPROCESS)
    assert np.array_equal(pixels_of(squares), [PREPROCESS.square(source.array[row]) for row in (7, 2)])
    assert np.shares_memory(working_copy(subset, PREPROCESS, side=16).stacks[0], source.array)


def test_each_image_is_read_once_and_keeps_its_side_and_its_place():
    source = Mixed()
    squares = working_copy(Subset(source, np.array([5, 4, 3, 2, 1, 0]), "train"), PREPROCESS)
    assert source.read == [(row, 8) for row in (5, 4, 3, 2, 1, 0)]
    assert [len(square) for square in pixels_of(squares)] == [8, 5, 8, 5, 8, 8]
    for square, row in zip(pixels_of(squares), (5, 4, 3, 2, 1, 0), strict=True):
        assert np.array_equal(square, PREPROCESS.square(source.images[row]))


@pytest.mark.parametrize("positions", [[0, 1, 2, 3, 4, 5], [3, 2, 5], [2, 4], [0]])
def test_what_is_made_of_images_of_several_sides_comes_in_the_order_asked_for(positions):
    squares = working_copy(Subset.whole(Mixed(), "train"), PREPROCESS)
    positions = np.array(positions)
    made = squares.tensor(positions, lambda pixels, _: PREPROCESS.tensor(torch.from_numpy(pixels)))
    for got, position in zip(made, positions, strict=True):
        alone = PREPROCESS.tensor(torch.from_numpy(pixels_of(squares)[position][None]))[0]
        assert torch.allclose(got, alone, atol=1e-6)
    places = squares.tensor(positions, lambda _, places: torch.arange(len(positions))[places])
    assert places.tolist() == list(range(len(positions)))


def test_batches_take_images_of_several_sides():
    squares = working_copy(Subset.whole(Mixed(), "train"), PREPROCESS)
    changes = Augmentation(min_scale=0.5, max_aspect=1.2, trivial=0.5)
    made = TrainingBatches(squares, PREPROCESS, sizes=[8], batch_size=6, seed=0, augmentation=changes)
    (batch,) = made.epoch(0)
    resident = replace(made, resident=Resident.of(squares, torch.device("cpu")))
    assert torch.equal(next(resident.epoch(0)).images, batch.images)
    for row, image, label in zip(batch.rows, batch.images, batch.labels, strict=True):
        assert torch.allclose(image, made.images(np.array([row]), view=0, size=8)[0], atol=1e-5)
        assert label == row % 2
    ((images, labels),) = evaluation_batches(squares, PREPROCESS, batch_size=9, device=torch.device("cpu"))
    assert images.shape == (6, 3, 8, 8)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_fingerprint_is_that_of_the_images_and_of_what_was_done_to_them():
    small, large = (Subset.whole(array_source(side), "train") for side in (8, 16))
    padded = replace(PREPROCESS, fit="pad")
    untouched = {working_copy(small, preprocess, side=side).fingerprint() for preprocess in (PREPROCESS, padded)
                 for side in (8, 16)}  # fmt: skip
    assert len(untouched) == 1, "one working copy of small squares serves all sizes"
    prints = {
        working_copy(large, PREPROCESS).fingerprint(),
        working_copy(large, padded).fingerprint(),
        working_copy(large, PREPROCESS, side=12).fingerprint(),
        working_copy(large, PREPROCESS, side=16).fingerprint(),
        working_copy(Subset(large.source, large.rows[::-1], "train"), PREPROCESS).fingerprint(),
    }
    assert len(prints | untouched) == 6
