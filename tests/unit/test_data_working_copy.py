"""Working copies: small square arrays are taken as they are, all other images are read and reduced once."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from headstart.contracts import ClassNames
from headstart.data import square_cache
from headstart.data.array_file import read_facts
from headstart.data.augment import Augmentation
from headstart.data.batches import Resident, TrainingBatches, evaluation_batches
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.errors import DataError, HeadstartError, ImagesError, WriteError

PREPROCESS = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
NAMES = ClassNames(("cat", "dog"))


class Mixed:
    """A source as a folder of images is one: each has its own size, and is counted when it is read."""

    classes, groups, array = NAMES, None, None

    def __init__(self, shapes=((8, 8), (30, 20), (5, 5), (8, 12), (5, 7), (40, 40))):
        generator = np.random.default_rng(0)
        self.images = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        self.targets = np.arange(len(shapes), dtype=np.int64) % 2
        self.read, self.bad = [], {}

    def __len__(self):
        return len(self.images)

    def identity(self, row):
        return f"{row:064x}"

    def image(self, row, *, at_least=None, fit=None):
        self.read.append((row, at_least, fit))
        if row in self.bad:
            raise DataError(f"{row}.jpg can't be read: {self.bad[row]}.")
        return self.images[row]


def array_source(side):
    images = np.random.default_rng(0).integers(0, 256, (10, side, side, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(10, dtype=np.int64) % 2, NAMES)


def pixels_of(squares):
    """Every square, in order."""
    return [squares.stacks[k][j] for k, j in zip(squares.stack.tolist(), squares.place.tolist(), strict=True)]


def test_an_array_of_small_squares_is_its_own_working_copy():
    source = array_source(8)
    squares = working_copy(Subset(source, np.array([7, 2]), "val"), PREPROCESS)
    assert np.shares_memory(squares.stacks[0], source.array)
    assert np.array_equal(pixels_of(squares), source.array[[7, 2]])
    assert squares.labels.tolist() == [1, 0]


def test_an_array_of_large_squares_is_reduced_unless_they_are_wanted_so(own_home):
    source = array_source(16)
    subset = Subset(source, np.array([7, 2]), "val")
    squares = working_copy(subset, PREPROCESS)
    assert np.array_equal(pixels_of(squares), [PREPROCESS.square(source.array[row]) for row in (7, 2)])
    assert np.shares_memory(working_copy(subset, PREPROCESS, side=16).stacks[0], source.array)


def test_each_image_is_read_once_and_keeps_its_side_and_its_place(own_home):
    source = Mixed()
    squares = working_copy(Subset(source, np.array([5, 4, 3, 2, 1, 0]), "train"), PREPROCESS)
    assert sorted(source.read) == [(row, 8, "crop") for row in range(6)]
    assert [len(square) for square in pixels_of(squares)] == [8, 5, 8, 5, 8, 8]
    for square, row in zip(pixels_of(squares), (5, 4, 3, 2, 1, 0), strict=True):
        assert np.array_equal(square, PREPROCESS.square(source.images[row]))


@pytest.mark.parametrize("positions", [[0, 1, 2, 3, 4, 5], [3, 2, 5], [2, 4], [0]])
def test_what_is_made_of_images_of_several_sides_comes_in_the_order_asked_for(own_home, positions):
    squares = working_copy(Subset.whole(Mixed(), "train"), PREPROCESS)
    positions = np.array(positions)
    made = squares.tensor(positions, lambda pixels, _: PREPROCESS.tensor(torch.from_numpy(pixels)))
    for got, position in zip(made, positions, strict=True):
        alone = PREPROCESS.tensor(torch.from_numpy(pixels_of(squares)[position][None]))[0]
        assert torch.allclose(got, alone, atol=1e-6)
    places = squares.tensor(positions, lambda _, places: torch.arange(len(positions))[places])
    assert places.tolist() == list(range(len(positions)))


def test_batches_take_images_of_several_sides(own_home):
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


def test_the_fingerprint_is_that_of_the_images_and_of_what_was_done_to_them(own_home):
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


def files_of(home):
    return sorted(home.glob("squares/*/*.npy"))


def test_later_runs_open_no_image_and_new_images_alone_are_decoded(own_home):
    shapes = [(20 + row, 30) for row in range(30)]
    first = working_copy(Subset.whole(Mixed(shapes[:20]), "train"), PREPROCESS)
    source = Mixed(shapes)
    grown = working_copy(Subset.whole(source, "train"), PREPROCESS)
    assert sorted(row for row, *_ in source.read) == list(range(20, 30))
    assert np.array_equal(pixels_of(grown)[:20], pixels_of(first))
    source.read.clear()
    again = working_copy(Subset(source, np.arange(30)[::-1], "train"), PREPROCESS)
    assert source.read == []
    assert np.array_equal(pixels_of(again)[::-1], [PREPROCESS.square(image) for image in source.images])


def test_equal_images_are_decoded_once(own_home):
    source = Mixed()
    source.identity = lambda row: f"{row % 3:064x}"
    squares = working_copy(Subset.whole(source, "train"), PREPROCESS)
    assert len(source.read) == 3
    assert squares.place[0] == squares.place[3]


def test_what_decides_no_square_shares_them_and_what_does_decodes_again(own_home, monkeypatch):
    source = Mixed()
    subset = Subset.whole(source, "train")
    working_copy(subset, PREPROCESS)
    source.read.clear()
    working_copy(subset, replace(PREPROCESS, size=12, mean=(0, 0, 0), std=(1, 1, 1)), side=8)
    assert source.read == []
    for changed in (replace(PREPROCESS, fit="pad"), replace(PREPROCESS, interpolation="bilinear")):
        working_copy(subset, changed)
        assert len(source.read) == 6
        source.read.clear()
    working_copy(subset, replace(PREPROCESS, fit="pad", mean=(0, 0, 0)))
    assert len(source.read) == 6
    source.read.clear()
    monkeypatch.setattr("headstart.data.working_copy.pillow_version", "0.1")
    working_copy(subset, PREPROCESS)
    assert len(source.read) == 6


def test_every_image_that_can_not_be_read_is_told_at_once(own_home):
    source = Mixed([(20, 30)] * 40)
    source.bad = {3: "damaged", 33: "the file is empty"}
    subset = Subset(source, np.arange(40)[::-1], "train")
    told = {33: "33.jpg can't be read: the file is empty.", 3: "3.jpg can't be read: damaged."}
    for _ in range(2):
        source.read.clear()
        with pytest.raises(ImagesError, match=r"2 of 40 images") as error:
            working_copy(subset, PREPROCESS)
        assert error.value.reasons == told
    assert sorted(row for row, *_ in source.read) == [3, 33], "the good ones are kept"
    good = Subset(source, np.setdiff1d(np.arange(40), [3, 33]), "train")
    source.read.clear()
    assert len(working_copy(good, PREPROCESS)) == 38
    assert source.read == []


@pytest.mark.parametrize("damage", ["flipped", "facts", "short", "foreign", "empty"])
def test_a_damaged_file_is_noticed_and_its_images_are_decoded_again(own_home, damage):
    source = Mixed([(20, 30)] * 5)
    subset = Subset.whole(source, "train")
    expected = np.array(pixels_of(working_copy(subset, PREPROCESS)))
    (file,) = files_of(own_home)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[300] ^= 1
    if damage == "facts":
        content = content.replace(b'"sides"', b'"sidez"')
    file.write_bytes(
        {"flipped": content, "facts": content, "short": content[:-200], "foreign": b"x" * 999, "empty": b""}[damage]
    )
    source.read.clear()
    assert np.array_equal(pixels_of(working_copy(subset, PREPROCESS)), expected)
    assert len(source.read) == 5
    source.read.clear()
    working_copy(subset, PREPROCESS)
    assert source.read == []


def test_a_full_disk_is_named_and_what_was_written_before_stays(own_home, monkeypatch):
    source = Mixed([(20, 30)] * 40)
    subset = Subset.whole(source, "train")
    monkeypatch.setattr(square_cache, "FILE_BYTES", 10 * 8 * 8 * 3)
    written, write = [], square_cache.new_array

    def full(path, shape, *given):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(shape[0])
        return write(path, shape, *given)

    monkeypatch.setattr(square_cache, "new_array", full)
    with pytest.raises(WriteError, match=r"No space left.*headstart cache --clear.*HEADSTART_HOME"):
        working_copy(subset, PREPROCESS)
    assert written == [10 * 8 * 8 * 3] * 2
    monkeypatch.setattr(square_cache, "new_array", write)
    source.read.clear()
    assert np.array_equal(pixels_of(working_copy(subset, PREPROCESS)), [PREPROCESS.square(i) for i in source.images])
    assert len(source.read) == 20, "what was written is not decoded again"


def test_squares_in_many_files_are_one_stack_that_outlives_the_files(own_home, monkeypatch):
    shapes = [(20, 30), (5, 5)] * 20
    monkeypatch.setattr(square_cache, "FILE_BYTES", 500)
    source = Mixed(shapes)
    squares = working_copy(Subset.whole(source, "train"), PREPROCESS)
    assert len(files_of(own_home)) > 8
    assert all(len(read_facts(file)["sides"]) == 2 for file in files_of(own_home)[:3]), "a file is open for each"
    assert [stack.shape[1] for stack in squares.stacks] == [5, 8]
    for file in files_of(own_home):
        file.unlink()
    order = np.random.default_rng(0).permutation(40)
    made = squares.tensor(order, lambda pixels, _: PREPROCESS.tensor(torch.from_numpy(pixels)))
    for got, row in zip(made, order, strict=True):
        alone = PREPROCESS.tensor(torch.from_numpy(PREPROCESS.square(source.images[row])[None]))[0]
        assert torch.allclose(got, alone, atol=1e-6)


def test_a_file_that_was_cut_since_it_was_checked_is_named(own_home):
    squares = working_copy(Subset.whole(Mixed([(20, 30)] * 5), "train"), PREPROCESS)
    (file,) = files_of(own_home)
    os.truncate(file, 200)
    with pytest.raises(HeadstartError, match=rf"{file}.*cut short"):
        squares.stacks[0][np.arange(5)]


def test_a_cache_that_is_full_forgets_what_was_not_used_for_longest(own_home, monkeypatch):
    old, new = Mixed([(20, 30)] * 5), Mixed([(20, 31)] * 5)
    new.identity = lambda row: f"{row + 100:064x}"
    working_copy(Subset.whole(old, "train"), PREPROCESS)
    (file,) = files_of(own_home)
    monkeypatch.setattr(square_cache, "CACHE_BYTES", 10)
    working_copy(Subset.whole(new, "train"), replace(PREPROCESS, fit="pad"))
    assert file.exists(), "what was used within a day stays"
    os.utime(file, (1, 1))
    new.identity = lambda row: f"{row + 200:064x}"
    working_copy(Subset.whole(new, "train"), replace(PREPROCESS, fit="stretch"))
    assert not file.exists()
    assert len(files_of(own_home)) == 2


WORKER = """
import sys, time
import numpy as np
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.data.subset import Subset
from headstart.data import square_cache, working_copy

class Slow:
    classes, groups, array = ClassNames(("cat", "dog")), None, None
    targets = np.zeros(200, np.int64)
    read = 0
    def __len__(self): return 200
    def identity(self, row): return f"{row:064x}"
    def image(self, row, *, at_least=None, fit=None):
        time.sleep(0.005)
        Slow.read += 1
        return np.full((20, 30, 3), row, np.uint8)

square_cache.FILE_BYTES = 20 * 8 * 8 * 3
squares = working_copy.working_copy(Subset.whole(Slow(), "train"), Preprocess(8, (0.5,) * 3, (1,) * 3))
right = all((squares.stacks[0][squares.place[[row]]] == row).all() for row in range(200))
print(Slow.read, right)
"""


def test_two_processes_share_the_work_and_a_killed_one_loses_little(own_home):
    start = partial(subprocess.Popen, [sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    killed = start()
    deadline = time.monotonic() + 100
    while len(files_of(own_home)) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    kept = len(files_of(own_home))
    told = [process.communicate(timeout=100)[0].split() for process in (start(), start())]
    assert [right for _, right in told] == ["True", "True"]
    assert sorted(int(read) for read, _ in told) == [0, 200 - 20 * kept]
