import json
import shutil
from dataclasses import fields

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
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
        ({"format": 3}, "format 1 or 2"),
        ({"format": 2}, "whole_sha256"),
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


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"format": ' + "1" * 5000 + "}"])
def test_a_description_that_is_no_json_is_refused(copy, content):
    (copy / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json can't be read"):
        open_store(copy)


def test_a_description_of_absurd_size_is_refused_unread(copy):
    with (copy / "dataset.json").open("r+b") as file:
        file.truncate(10**10)
    with pytest.raises(DataError, match=r"10,000 MB"):
        open_store(copy)


def test_a_long_wrong_value_is_cut(copy):
    edit(copy, class_names=["x", 5] * 10**6)
    with pytest.raises(DataError, match=r"class_names.*\.\.\.") as caught:
        open_store(copy)
    assert len(str(caught.value)) < 500


def test_names_that_were_swapped_are_noticed(sample_arrays, tmp_path):
    names = ClassNames(("cat", "dog", *"cdefghij"))
    write_store(tmp_path / "new", sample_arrays, name="ten", class_names=names, source="a test")
    assert open_store(tmp_path / "new").class_names == names
    edit(tmp_path / "new", class_names=["dog", "cat", *"cdefghij"])
    with pytest.raises(DataError, match=r"class names .* are not those that were written"):
        open_store(tmp_path / "new")


def test_a_store_of_format_1_is_read(copy, sample_dir):
    assert json.loads((sample_dir / "dataset.json").read_text())["format"] == 1
    assert open_store(copy).name == "cifar10-sample"


@pytest.mark.parametrize("file", ["train_images", "test_labels"])
def test_every_flipped_bit_of_a_header_is_noticed_as_damage(sample_arrays, tmp_path, file, recwarn):
    few = Arrays(*(getattr(sample_arrays, part.name)[:20] for part in fields(Arrays)))
    copy = tmp_path / "copy"
    write_store(copy, few, name="ten", class_names=ClassNames(tuple("abcdefghij")), source="a test")
    path = copy / f"{file}.npy"
    content = path.read_bytes()
    for bit in range(0, 8 * 128, 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{file}.npy"):
            open_store(copy)
    assert not recwarn.list


@pytest.mark.parametrize(
    "shape", ["(10, 32, 32, 3)", "(99999999999999, 32, 32, 3)", "(0, 0, 0, 3)", "(" + "9" * 60 + ",)"]
)
def test_a_header_with_an_absurd_shape_is_refused(copy, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (copy / "test_images.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(DataError, match=r"test_images\.npy"):
        open_store(copy)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_numpys_format_is_read(copy, version):
    labels = np.load(copy / "train_labels.npy")
    with (copy / "train_labels.npy").open("wb") as file:
        np.lib.format.write_array(file, labels, version=version)
    assert np.array_equal(open_store(copy).arrays.train_labels, labels)
