"""Subsets copy nothing, every image is hashed once, and the hashes are kept for the next run, for these data alone."""

import hashlib
import logging

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data import arrays
from headstart.data.dataset import load_dataset
from headstart.data.sources import memory
from headstart.data.sources.memory import ArraySource
from headstart.data.splits import build_manifest, split_train
from headstart.data.subset import Subset

NAMES = ClassNames(("cat", "dog"))


def source(n=6, *, shape=(4, 5), index=None, sha256="ab" * 32, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, *shape, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(n, dtype=np.int64) % 2, NAMES, index, sha256)


@pytest.fixture
def hashed(monkeypatch):
    """The number of images hashed, one entry a call."""
    counts, really = [], memory.image_digests
    monkeypatch.setattr(memory, "image_digests", lambda images: (counts.append(len(images)), really(images))[1])
    return counts


def test_a_subset_knows_its_images_and_copies_none():
    whole = source()
    subset = Subset(whole, np.array([4, 1, 3]), "val")
    assert len(subset) == 3
    assert subset.labels.tolist() == [0, 1, 1]
    assert np.shares_memory(subset.image(1), whole.array)
    assert np.array_equal(subset.image(1), whole.array[1])
    assert np.array_equal(np.concatenate(list(subset.blocks())), whole.array[[4, 1, 3]])
    assert subset.identities[0] == hashlib.sha256(b"4x5x3" + whole.array[4].tobytes()).hexdigest()
    assert subset.sha256 != Subset(whole, np.array([1, 4, 3]), "val").sha256, "the order counts"


def test_blocks_of_a_source_without_an_array_come_one_by_one():
    class Single(ArraySource):
        array = None

        def image(self, row, **_):
            return np.full((row + 1, 2, 3), row, np.uint8)

    blocks = list(Subset(Single(None, np.zeros(3, np.int64), NAMES), np.array([2, 0]), "train").blocks())
    assert [block.shape for block in blocks] == [(1, 3, 2, 3), (1, 1, 2, 3)]


def test_a_whole_run_hashes_each_image_once_and_the_next_one_none(own_home, sample_dir, hashed):
    def what_a_run_asks(dataset):
        manifest = build_manifest(*split_train(dataset.train, val_fraction=0.1, seed=0), dataset.sealed_test)
        manifest.check(dataset)
        assert manifest.select(dataset.train, "val").sha256
        assert len(dataset.sealed_test.image_hashes()) == 100
        return manifest

    first = what_a_run_asks(load_dataset(str(sample_dir), limit=300))
    assert sorted(hashed) == [100, 500]
    assert what_a_run_asks(load_dataset(str(sample_dir), limit=300)) == first
    assert sorted(hashed) == [100, 500], "the second run reads what the first one has kept"


def test_the_index_is_not_taken_for_that_of_other_data(tmp_path, hashed):
    index = tmp_path / "identities" / "index.npy"
    first, other = source(index=index), source(index=index, sha256="cd" * 32, seed=1)
    assert first.identity(2) != other.identity(2)
    assert source(index=index, sha256="cd" * 32, seed=1).identity(2) == other.identity(2)
    assert hashed == [6, 6]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "odd"])
def test_a_damaged_index_is_made_again_with_a_warning(tmp_path, hashed, caplog, damage):
    index = tmp_path / "index.npy"
    expected = source(index=index).identity(3)
    content = bytearray(index.read_bytes())
    content[140] ^= 1
    changed = {"flip": bytes(content), "cut": content[:-40], "empty": b"", "odd": b"\x93NUMPY\x01\x00 what is this?"}
    index.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        assert source(index=index).identity(3) == expected
        assert source(index=index).identity(3) == expected
    assert hashed == [6, 6]
    assert len(caplog.records) == 1
    assert str(index) in caplog.text


def test_an_index_that_can_not_be_written_is_done_without(tmp_path, hashed, caplog):
    (tmp_path / "file").touch()
    made = source(index=tmp_path / "file" / "index.npy")
    assert made.identity(0) == arrays.image_hashes(made.array)[0]
    assert "index.npy" in caplog.text
