import hashlib

import numpy as np

from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays, blocks, image_hashes
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset


def test_the_hash_of_a_data_set_is_the_documented_one(sample_arrays):
    a = sample_arrays
    text = b"(500, 32, 32, 3)" + a.train_images.tobytes() + b"(100, 32, 32, 3)" + a.test_images.tobytes()
    text += b"(500,)" + a.train_labels.astype("<i8").tobytes() + b"(100,)" + a.test_labels.astype("<i8").tobytes()
    assert a.sha256() == hashlib.sha256(text).hexdigest()


def test_the_hash_sees_where_train_ends(sample_arrays):
    a = sample_arrays
    moved = Arrays(
        a.train_images[:-1],
        a.train_labels[:-1],
        np.concatenate([a.train_images[-1:], a.test_images]),
        np.concatenate([a.train_labels[-1:], a.test_labels]),
    )
    assert moved.sha256() != a.sha256()


def test_the_hash_of_an_image_covers_its_shape_and_pixels():
    images = np.arange(2 * 4 * 2 * 3, dtype=np.uint8).reshape(2, 4, 2, 3)
    first, second = image_hashes(images)
    assert first == hashlib.sha256(b"4x2x3" + images[0].tobytes()).hexdigest()
    assert first != second
    assert image_hashes(images.reshape(2, 2, 4, 3))[0] != first


def test_blocks_lose_nothing_of_memory_mapped_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4500, 2, 2, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert np.array_equal(np.concatenate(list(blocks(mapped))), images)
    rows = np.random.default_rng(1).permutation(4500)[:4100]
    subset = Subset(ArraySource(mapped, np.zeros(4500, np.int64), ClassNames(("a", "b"))), rows, "train")
    assert np.array_equal(np.concatenate(list(subset.blocks())), images[rows])
