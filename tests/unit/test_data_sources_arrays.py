import json
import shutil

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.dataset import load_dataset
from headstart.data.sources.arrays import open_store, write_store
from headstart.errors import DataError


@pytest.fixture
def copy(sample_dir, tmp_path):
    return shutil.copytree(sample_dir, tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_what_is_opened(sample_arrays, sample_dir, tmp_path):
    names = ClassNames(tuple("abcdefghij"))
    sha256 = write_store(tmp_path / "new", sample_arrays, name="ten", class_names=names, source="a test")
    stored = open_store(tmp_path / "new")
    assert (stored.name, stored.class_names, stored.source) == ("ten", names, "a test")
    assert stored.sha256 == sha256 == open_store(sample_dir).sha256
    assert np.array_equal(stored.arrays.train_images, sample_arrays.train_images)
    assert isinstance(stored.arrays.train_images, np.memmap)
    assert not stored.arrays.train_images.flags.writeable


def test_writing_replaces_what_was_there_and_leaves_nothing_else(sample_arrays, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old file").touch()
    names = ClassNames(tuple("abcdefghij"))
    write_store(tmp_path / "new", sample_arrays, name="ten", class_names=names, source="a test")
    assert not (tmp_path / "new" / "old file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("file", ["train_images", "train_labels", "test_images", "test_labels"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "empty"])
def test_every_damage_is_noticed(copy, file, damage):
    path = copy / f"{file}.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-100], "flipped bit": content, "empty": b""}[damage])
    with pytest.raises(DataError, match=str(copy)):
        open_store(copy)


def test_pickles_are_refused(copy):
    np.save(copy / "train_labels.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="train_labels"):
        open_store(copy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 2}, "format 1"),
        ({"class_names": ["a", "b"]}, "labels from 0 to 9"),
        ({"class_names": ["a"] * 10}, "unique"),
        ({"class_names": "ten"}, "class_names"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"source": None}, "source"),
    ],
)
def test_a_wrong_description_is_refused(copy, changes, told):
    edit(copy, **changes)
    with pytest.raises(DataError, match=told):
        load_dataset(str(copy))


def test_a_description_that_is_no_json_is_refused(copy):
    (copy / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json can't be read"):
        open_store(copy)
