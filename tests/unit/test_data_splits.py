import hashlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.arrays import image_hashes
from headstart.data.dataset import Dataset, SealedTest, load_dataset
from headstart.data.sources.memory import ArraySource
from headstart.data.splits import Manifest, ManifestRow, build_manifest, read_manifest, split_train
from headstart.data.subset import Subset
from headstart.errors import DataError, WriteError

NAMES = ClassNames(("a", "b", "c"))


def made(labels, *, name="train", seed=0, side=4, names=NAMES):
    """Random images with the given labels."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return Subset.whole(ArraySource(images, np.array(labels, dtype=np.int64), names), name)


@pytest.fixture
def manifest(sample):
    return build_manifest(*split_train(sample.train, val_fraction=0.1, seed=0), sample.sealed_test)


def changed(dataset, *, images=None, labels=None):
    """A copy of ``dataset`` with other training data."""
    source = dataset.train.source
    images = source.array if images is None else images
    train = Subset.whole(ArraySource(images, source.targets if labels is None else labels, source.classes), "train")
    return replace(dataset, train=train)


def test_every_image_is_on_one_side_with_its_own_label(sample):
    train, val = split_train(sample.train, val_fraction=0.1, seed=0)
    assert sorted([*train.rows, *val.rows]) == list(range(500))
    for split, name in ((train, "train"), (val, "val")):
        assert split.name == name
        assert split.source is sample.train.source, "nothing is copied"
        assert np.array_equal(split.image(3), sample.train.source.array[split.rows[3]])
        assert np.array_equal(split.labels, sample.train.labels[split.rows])
        assert (np.diff(split.rows) > 0).all()
    assert np.bincount(val.labels).tolist() == [5] * 10


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((50, 30, 20), 0.1, [5, 3, 2]),
        ((15, 15, 15), 0.1, [2, 1, 1]),  # 4.5 rounds to 4: one for each, and one for the first
        ((14, 16, 17), 0.1, [1, 2, 2]),  # 4.7 rounds to 5: the largest remainders are 0.7 and 0.6
        ((97, 2, 2), 0.1, [10, 1, 1]),  # at least one of each
        ((10, 10, 2), 0.95, [9, 9, 1]),  # and at least one left
        ((100, 100, 100), 0.29, [29, 29, 29]),
    ],
)
def test_each_class_keeps_its_share(counts, fraction, expected):
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], counts))
    _, val = split_train(made(labels), val_fraction=fraction, seed=3)
    assert np.bincount(val.labels, minlength=3).tolist() == expected


def test_the_seed_decides_and_nothing_else(sample):
    first = split_train(sample.train, val_fraction=0.1, seed=0)[1].rows
    np.random.seed(99)
    before = np.random.get_state()[1].copy()
    assert np.array_equal(split_train(sample.train, val_fraction=0.1, seed=0)[1].rows, first)
    assert np.array_equal(np.random.get_state()[1], before)
    assert not np.array_equal(split_train(sample.train, val_fraction=0.1, seed=1)[1].rows, first)


def test_the_draw_is_pinned(sample):
    """A change of this draw would give every published figure another split."""
    rows = split_train(sample.train, val_fraction=0.1, seed=0)[1].rows
    assert rows[:10].tolist() == [36, 38, 52, 54, 61, 76, 88, 96, 98, 100]


def test_the_order_of_the_images_does_not_matter(sample):
    order = np.random.default_rng(0).permutation(500)
    train = sample.train
    shuffled = replace(train, rows=train.rows[order])
    original, other = (split_train(s, val_fraction=0.1, seed=0)[1] for s in (train, shuffled))
    assert set(original.rows) == set(other.rows)


def test_copies_of_an_image_stay_together():
    labels = np.arange(300) % 3
    images = made(labels).source.array
    # Sixty images have from one to three copies, some of them under another label.
    for row in range(60):
        for copy in range(1 + row % 3):
            images[60 + 3 * row + copy] = images[row]
    split = Subset.whole(ArraySource(images, labels, NAMES), "train")
    sides = 0
    for seed in range(20):
        train, val = split_train(split, val_fraction=0.2, seed=seed)
        assert not set(train.identities) & set(val.identities)
        assert np.bincount(val.labels).tolist() == [20, 20, 20]
        sides += sum(n > 1 for n in Counter(val.identities).values())
    assert sides > 0, "copies are never drawn for validation"


@pytest.mark.parametrize(
    ("labels", "told"),
    [([0, 0, 1, 1], "'c' has no training images"), ([0, 0, 1, 1, 2], "'c' has 1 training image, but needs two")],
)
def test_a_class_too_small_to_split_is_named(labels, told):
    with pytest.raises(DataError, match=told):
        split_train(made(labels), val_fraction=0.5, seed=0)


def test_a_class_of_copies_only_is_named():
    split = made([0, 0, 1, 1, 2, 2])
    split.source.array[5] = split.source.array[4]
    with pytest.raises(DataError, match="'c' can't be split: its 2 images are copies"):
        split_train(split, val_fraction=0.5, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_out_of_range(sample, fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        split_train(sample.train, val_fraction=fraction, seed=0)


def test_the_manifest_holds_every_image(manifest, sample):
    assert Counter(row.split for row in manifest.rows) == {"train": 450, "val": 50, "test": 100}
    hashes = image_hashes(sample.train.source.array)
    for row in manifest.rows[:500]:
        assert row.sha256 == hashes[row.row]
        assert row.label == sample.class_names[sample.train.labels[row.row]]
    assert [row.sha256 for row in manifest.rows[500:]] == sample.sealed_test.image_hashes()


def test_the_manifest_survives_a_file(manifest, tmp_path):
    path = tmp_path / "split_manifest.csv"
    manifest.write(path)
    again = read_manifest(path)
    assert again == manifest
    assert again.sha256 == manifest.sha256
    assert path.read_text().startswith("sha256,split,label,row\n")
    assert list(tmp_path.iterdir()) == [path]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.sha256


def test_class_names_may_hold_what_csv_must_quote(tmp_path):
    names = ClassNames(('a, "b"', "c;d, 'e'", "é"))
    splits = [made([0, 1, 2], name=n, seed=s, names=names) for s, n in enumerate(("train", "val", "test"))]
    manifest = build_manifest(splits[0], splits[1], SealedTest(splits[2]))
    manifest.write(tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest


def test_no_class_name_in_the_file_is_a_formula_and_the_hash_is_that_of_the_names(tmp_path):
    names = ("=cmd|' /C calc'!A0", "+1", "-1", "@sum", "'=x", "'tis")
    rows = tuple(ManifestRow("ab" * 32, "train", name, row) for row, name in enumerate(names))
    raw = "sha256,split,label,row\n" + "".join(f"{'ab' * 32},train,{name},{row}\n" for row, name in enumerate(names))
    manifest = Manifest(rows)
    manifest.write(tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv") == manifest
    cells = [line.split(",")[2] for line in (tmp_path / "manifest.csv").read_text().splitlines()[1:]]
    assert [cell[0] for cell in cells] == ["'"] * 6
    # Runs of earlier versions have the names as they are, and the hash of their file.
    assert manifest.sha256 == hashlib.sha256(raw.encode()).hexdigest()
    (tmp_path / "old.csv").write_text(raw.replace("'=x", "a"))
    assert [row.label for row in read_manifest(tmp_path / "old.csv").rows] == [*names[:4], "a", "'tis"]


def test_a_manifest_that_cant_be_written_is_an_error(manifest, tmp_path):
    with pytest.raises(WriteError, match="can't be written"):
        manifest.write(tmp_path / "gone" / "m.csv")


@pytest.mark.parametrize(
    "line",
    ["{hash},training,cat,0", "{hash},train,cat,x", "{hash},train,,0", "{hash},train,cat", "abc,train,cat,0", ""],
)
def test_a_damaged_line_of_a_manifest_is_named(manifest, tmp_path, line):
    path = tmp_path / "m.csv"
    manifest.write(path)
    lines = path.read_text().splitlines()
    lines[3] = line.format(hash="0" * 64)
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"m\.csv, line 4: not a row"):
        read_manifest(path)


def test_what_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("row,label\n0,cat\n")
    with pytest.raises(DataError, match="first line must be sha256,split,label,row"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(DataError, match="can't be read"):
        read_manifest(tmp_path / "gone.csv")


def test_the_right_data_passes(manifest, sample):
    manifest.check(sample)


def test_changed_images_are_counted_and_named(manifest, sample):
    images = np.array(sample.train.source.array)
    images[[7, 8, 9, 400], 0, 0, 0] ^= 1
    with pytest.raises(
        DataError, match=r"4 changed \(train row \d+, train row \d+, train row \d+, \.\.\.\).*train again"
    ):
        manifest.check(changed(sample, images=images))


def test_swapped_images_are_found(manifest, sample):
    images = np.array(sample.train.source.array)
    images[[0, 1]] = images[[1, 0]]
    with pytest.raises(DataError, match=r"2 changed \(train row \d, train row \d\)"):
        manifest.check(changed(sample, images=images))


def test_relabelled_images_are_named(manifest, sample):
    labels = sample.train.labels.copy()
    old, labels[3] = labels[3], (labels[3] + 1) % 10
    told = f"1 relabelled (train row 3 from '{sample.class_names[old]}' to '{sample.class_names[labels[3]]}')"
    with pytest.raises(DataError, match=re.escape(told)):
        manifest.check(changed(sample, labels=labels))


def test_images_that_went_from_test_to_train_are_named(manifest, sample, sample_arrays):
    a = sample_arrays
    train_images, test_images = a.train_images.copy(), a.test_images.copy()
    train_images[5], test_images[6] = a.test_images[6], a.train_images[5]
    test = Subset.whole(ArraySource(test_images, a.test_labels, sample.class_names), "test")
    swapped = replace(changed(sample, images=train_images), sealed_test=SealedTest(test))
    with pytest.raises(DataError, match=r"moved from train to test \(train row 5\)") as error:
        manifest.check(swapped)
    assert "moved from test to train (test row 6)" in str(error.value)


def test_another_limit_is_answered_with_the_right_one(sample_dir, sample):
    part = load_dataset(str(sample_dir), limit=300)
    manifest = build_manifest(*split_train(part.train, val_fraction=0.1, seed=0), part.sealed_test)
    manifest.check(part)
    with pytest.raises(DataError, match=r"200 new \(train row 300, .*load the data set with limit 300"):
        manifest.check(sample)
    with pytest.raises(DataError, match=r"missing .*limit 300"):
        manifest.check(load_dataset(str(sample_dir), limit=250))


def test_other_data_does_not_pass(manifest, sample):
    other = made(np.arange(500) % 3, side=32)
    test = SealedTest(made(np.arange(100) % 3, side=32, seed=5, name="test"))
    with pytest.raises(DataError, match="600 changed"):
        manifest.check(Dataset("other", other, test, NAMES, "0" * 64, "a test"))


def test_a_manifest_with_an_image_in_train_and_val_does_not_pass(manifest, sample):
    row = manifest.rows[0]
    forged = Manifest((*manifest.rows, row._replace(split="val", row=500)))
    assert forged.straddling()["train+val"] == 1
    with pytest.raises(DataError, match="both in train and in val"):
        forged.check(sample)


def test_copies_between_train_and_test_are_counted():
    train, val, test = (made([0, 1, 2], name=n, seed=s) for s, n in enumerate(("train", "val", "test")))
    copies = [train.image(0), train.image(1), train.image(0), val.image(0)]
    test = Subset.whole(ArraySource(np.stack(copies), np.array([0, 1, 0, 2]), NAMES), "test")
    manifest = build_manifest(train, val, SealedTest(test))
    assert manifest.straddling() == {"train+val": 0, "train+test": 3, "val+test": 1}, "each copy counts"


def test_a_split_is_got_back_from_the_manifest(manifest, sample):
    train, val = split_train(sample.train, val_fraction=0.1, seed=0)
    for split in (train, val):
        again = manifest.select(sample.train, split.name)
        assert again.name == split.name
        assert np.array_equal(again.rows, split.rows)
        assert again.source is split.source
        assert np.array_equal(again.labels, split.labels)


@pytest.mark.full_data
def test_cifar10_has_no_exact_copies_and_splits_evenly(cifar10):
    train, val = split_train(cifar10.train, val_fraction=0.1, seed=0)
    assert np.bincount(val.labels).tolist() == [500] * 10
    manifest = build_manifest(train, val, cifar10.sealed_test)
    assert len({row.sha256 for row in manifest.rows}) == 60_000
    assert manifest.straddling() == {"train+val": 0, "train+test": 0, "val+test": 0}
    manifest.check(cifar10)
