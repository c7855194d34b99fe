import subprocess
import sys

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays, image_hashes
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.sources.arrays import write_store
from headstart.errors import DataError


@pytest.fixture
def store(sample_arrays, tmp_path):
    """Write the sample with some training images left out; returns the path as a user would give it."""

    def write(keep):
        a = sample_arrays
        part = Arrays(a.train_images[keep], a.train_labels[keep], a.test_images, a.test_labels)
        names = ClassNames(tuple("abcdefghij"))
        write_store(tmp_path / "part", part, name="part", class_names=names, source="a test")
        return str(tmp_path / "part")

    return write


def test_a_folder_in_our_format_is_a_data_set(sample, sample_arrays):
    assert (sample.name, len(sample.train), len(sample.sealed_test)) == ("cifar10-sample", 500, 100)
    assert sample.class_names[3] == "cat"
    assert sample.train.rows.tolist() == list(range(500))
    assert np.array_equal(sample.train.source.array, sample_arrays.train_images)
    assert np.array_equal(sample.train.labels, sample_arrays.train_labels)


def test_the_sealed_test_split_tells_hashes_and_names_only(sample, sample_arrays):
    sealed = sample.sealed_test
    assert sealed.image_hashes() == image_hashes(sample_arrays.test_images)
    assert sealed.label_names() == [sample.class_names[i] for i in sample_arrays.test_labels]
    public = {name for name in dir(sealed) if not name.startswith("_")}
    assert public == {"image_hashes", "label_names", "open", "rows", "without"}
    opened = sealed.open()
    assert (opened.name, len(opened)) == ("test", 100)
    assert np.array_equal(opened.source.array, sample_arrays.test_images)


def test_a_limit_keeps_the_first_images_and_copies_none(sample_dir, sample_arrays):
    limited = load_dataset(str(sample_dir), limit=200)
    assert limited.train.rows.tolist() == list(range(200))
    assert np.array_equal(limited.train.image(199), sample_arrays.train_images[199])
    assert isinstance(limited.train.source.array, np.memmap)
    assert len(limited.sealed_test) == 100
    assert limited.sha256 == load_dataset(str(sample_dir)).sha256


def test_labels_of_arrays_are_corrected_from_a_table(sample_dir, sample_arrays, tmp_path):
    (tmp_path / "labels.csv").write_text("file_name,label\ntrain/3,ship\ntrain/5,drop\ntest/7,drop\ntest/8,cat\n")
    options = FileOptions(labels_from=str(tmp_path / "labels.csv"))
    before, found = load_dataset(str(sample_dir)), load_dataset(str(sample_dir), options=options)
    assert found.sha256 != before.sha256
    assert found.train.rows.tolist() == [row for row in range(500) if row != 5]
    assert found.train.class_names[found.train.labels[3]] == "ship"
    assert np.array_equal(np.delete(found.train.labels, 3), np.delete(sample_arrays.train_labels, [3, 5]))
    assert (len(found.sealed_test), found.sealed_test.label_names()[7]) == (99, "cat")
    assert found.train.identities[4] == before.train.identities[4]


@pytest.mark.parametrize("line", ["train/500,cat", "val/1,cat", "train/01,cat", "train/1,unicorn"])
def test_corrections_of_what_is_not_there_are_refused(sample_dir, tmp_path, line):
    (tmp_path / "labels.csv").write_text(f"file_name,label\n{line}\n")
    with pytest.raises(DataError, match="1 "):
        load_dataset(str(sample_dir), options=FileOptions(labels_from=str(tmp_path / "labels.csv")))


@pytest.mark.parametrize(
    ("limit", "told"),
    [(0, "1 or more, but is 0"), (-5, "is -5"), (501, "limit is 501, but cifar10-sample has only 500")],
)
def test_limits_out_of_range(sample_dir, limit, told):
    with pytest.raises(DataError, match=told):
        load_dataset(str(sample_dir), limit=limit)


def test_a_limit_that_leaves_a_class_empty_names_it_and_the_remedy(sample_dir, sample_arrays):
    enough = 1 + max(int(np.flatnonzero(sample_arrays.train_labels == c)[0]) for c in range(10))
    assert len(load_dataset(str(sample_dir), limit=enough).train) == enough
    told = rf"No image of '.*' is in the first {enough - 1} training images .*is {enough}\."
    with pytest.raises(DataError, match=told):
        load_dataset(str(sample_dir), limit=enough - 1)


def test_a_class_missing_from_training_is_named(store, sample_arrays):
    folder = store(~np.isin(sample_arrays.train_labels, [2, 5]))
    with pytest.raises(DataError, match=r"No image of 'c', 'f' is in the training set of part.*add some"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cifra10", "Did you mean 'cifar10'"),
        ("CIFAR-10", "Did you mean 'cifar10'"),
        ("imagenet", "known data set (cifar10)"),
        ("nowhere/photos", "no such folder or table"),
        ("phtos/", "Did you mean 'photos'"),
        ("photos/trian", "Did you mean 'train'"),
        ("lables.csv", "Did you mean 'labels.csv'"),
        ("~nobody-of-this-name/x", "hf://owner/name"),
        (__file__, "neither a folder nor a table"),
    ],
)
def test_an_unknown_data_set_is_answered_with_the_nearest(name, told, tmp_path, monkeypatch):
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "labels.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset(name)
    assert told in str(error.value)


@pytest.mark.parametrize("options", [{"group_from": "("}, {"labels_from": "gone.csv"}])
def test_wrong_options_are_told_before_files_are_listed(options, tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.dataset.discover", lambda *_, **__: pytest.fail("listed"))
    with pytest.raises(DataError, match=r"regular expression|gone\.csv can't be read"):
        load_dataset(str(tmp_path), options=FileOptions(**options))


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(DataError, match="no images"):
        load_dataset(str(tmp_path))


def test_a_local_copy_beside_a_folder_is_not_ignored(sample_dir):
    with pytest.raises(DataError, match="--data-dir"):
        load_dataset(str(sample_dir), data_dir=sample_dir)


@pytest.mark.parametrize("given", ["--data-dir", "HEADSTART_CIFAR10"])
def test_the_sample_does_not_pass_for_cifar10(sample_dir, own_home, monkeypatch, given):
    monkeypatch.setenv("HEADSTART_CIFAR10", str(sample_dir))
    with pytest.raises(DataError, match=rf"{given} points to can't be used.*is not CIFAR-10"):
        load_dataset("cifar10", data_dir=sample_dir if given == "--data-dir" else None)


@pytest.mark.full_data
def test_the_cache_serves_as_a_local_copy(cifar10, own_home, monkeypatch):
    place = cifar10.train.source.array.filename.parent
    monkeypatch.setenv("HEADSTART_CIFAR10", str(place))
    assert load_dataset("cifar10", limit=10_000).source == f"local copy {place}"
    assert not own_home.exists()


@pytest.mark.full_data
def test_neither_loading_nor_splitting_the_whole_set_takes_the_memory_of_its_pixels(cifar10):
    script = (
        "from pathlib import Path\n"
        "from headstart.data.dataset import load_dataset\n"
        "from headstart.data.splits import split_train\n"
        # Not ru_maxrss, which a child process inherits from its parent.
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024\n"
        "start = peak()\n"
        "dataset = load_dataset('cifar10', progress=False)\n"
        "loaded = peak()\n"
        "splits = split_train(dataset.train, val_fraction=0.1, seed=0)\n"
        "print(loaded - start, peak() - loaded)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loading, splitting = map(float, told.split())
    assert loading < 40
    # The pixels are 147 MiB, of which nothing is copied and nothing stays mapped.
    assert splitting < 40
