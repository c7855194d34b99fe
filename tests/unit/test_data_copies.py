"""Copies in a folder of images: they stay in one split, and contradictory labels are told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import copies, decode, decode_missing, near_copies, screening
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.sources import facts, files
from headstart.errors import InputError
from headstart.terminal import SILENT


@pytest.fixture
def photos(tmp_path, own_home, sample):
    """40 real images of each of two classes, and a mirrored JPEG of every second one."""
    root = tmp_path / "photos"
    for label, name in enumerate(("plane", "car")):
        (root / name).mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(sample.train.labels == label)[:40]):
            image = Image.fromarray(sample.train.image(int(row)))
            image.save(root / name / f"{number}.png")
            if number % 2:
                mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                mirrored.save(root / name / f"{number}-web.jpg", quality=80)
    return root


def load(root, **options):
    return load_dataset(str(root), progress=False, options=FileOptions(**options))


def splits(dataset):
    return {row.path: row.split for row in dataset.ledger.rows}


def pairs(found):
    return [(found[path], found[path.replace("-web.jpg", ".png")]) for path in found if "-web" in path]


def test_near_copies_stay_in_one_split_unless_they_are_ignored(photos):
    together, ignored = load(photos), load(photos, near_copies="ignore")
    assert len(pairs(splits(together))) == 40
    assert sum(one != other for one, other in pairs(splits(together))) <= 1
    assert sum(one != other for one, other in pairs(splits(ignored))) >= 8
    assert together.copies["near"] >= 78
    assert together.copies["test_with_copy_in_train_if_ignored"] >= 3
    assert any("near copies" in note and "draw without that" in note for note in together.notes)
    assert "near" not in ignored.copies
    assert not any("near copies" in note for note in ignored.notes)


def test_the_middle_of_a_photograph_is_a_copy_of_it(tmp_path, own_home):
    for path in sorted((Path(__file__).parents[1] / "data" / "trashnet-sample").glob("[mp]*/*.jpg"))[::2]:
        image = Image.open(path)
        place = tmp_path / "photos" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{path.stem}.png")
        image.crop((14, 0, 98, 84)).save(place / f"{path.stem}-web.jpg")
    found = load(tmp_path / "photos")
    assert len(pairs(splits(found))) == 30
    assert sum(one != other for one, other in pairs(splits(found))) <= 1
    assert 56 <= found.copies["near"] <= 60


def test_what_was_found_is_remembered_for_the_same_images(photos, monkeypatch):
    first = splits(load(photos))
    monkeypatch.setattr(near_copies, "near_copies", lambda *_, **__: pytest.fail("looked for again"))
    assert splits(load(photos)) == first
    (photos / "car" / "new.png").write_bytes((photos / "car" / "0.png").read_bytes())
    assert load(photos).copies["exact"] == 1  # an exact copy adds nothing to look for
    Image.new("RGB", (40, 40), "red").save(photos / "car" / "red.png")
    with pytest.raises(pytest.fail.Exception, match="looked for again"):
        load(photos)


def test_a_file_that_cannot_be_read_is_a_copy_of_nothing(photos):
    whole = (photos / "car" / "0.png").read_bytes()
    (photos / "car" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (photos / "car" / "broken too.png").write_bytes(whole[: len(whole) // 2 - 9])
    assert 78 <= load(photos).copies["near"] <= 80


@pytest.fixture
def decoded(photos, monkeypatch):
    """Names of the files that are decoded; they are remembered although they were written a moment ago."""
    monkeypatch.setattr(facts, "_SETTLED", 0)
    names, really = [], decode.decode_file
    for room in (files, screening):
        monkeypatch.setattr(
            room, "decode_file", lambda path, **given: (names.append(path.name), really(path, **given))[1]
        )
    return names


def test_one_pass_looks_for_copies_and_for_damage(photos, decoded):
    whole = (photos / "car" / "0.png").read_bytes()
    (photos / "car" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (photos / "car" / "same.png").write_bytes((photos / "car" / "2.png").read_bytes())
    left = screening.screen(load(photos), on_bad="skip", terminal=SILENT)
    assert len(decoded) == 121  # the exact copy is not decoded, nor any file twice
    assert left.ledger.refused().keys() == {"car/broken.png"}
    assert "damaged" in left.ledger.refused()["car/broken.png"]


def test_what_may_pass_is_not_remembered(photos, decoded, monkeypatch):
    def short_of_files(path, **given):
        if path.name == "1.png":
            raise InputError("can't be read (Too many open files)")
        return decode.decode_file(path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(files, "decode_file", short_of_files)
        fewer = load(photos).copies["near"]
    found = load(photos)
    assert found.copies["near"] == fewer + 4  # an image of each class, and its mirrored one
    screening.screen(found, on_bad="fail", terminal=SILENT)


def test_only_new_images_are_decoded_where_some_are_added(photos, decoded):
    load(photos)
    decoded.clear()
    Image.new("RGB", (40, 40), "red").save(photos / "car" / "red.png")
    load(photos)
    assert decoded == ["red.png"]


def test_images_that_a_killed_process_had_decoded_are_not_decoded_again(photos, decoded, monkeypatch):
    monkeypatch.setattr(copies, "_LOST", 10)
    monkeypatch.setattr(decode_missing, "_CHUNK", 1)
    really = files.decode_file

    def killed(path, **given):
        if len(decoded) == 60:
            raise KeyboardInterrupt
        return really(path, **given)

    monkeypatch.setattr(files, "decode_file", killed)
    with pytest.raises(KeyboardInterrupt):
        load(photos)
    monkeypatch.setattr(files, "decode_file", really)
    decoded.clear()
    screening.screen(load(photos), on_bad="fail", terminal=SILENT)
    assert 60 <= len(decoded) < 120


def test_test_images_of_their_own_folder_are_decoded_by_screening(photos, decoded):
    photos.rename(photos.parent / "train")
    root = photos.parent / "all"
    root.mkdir()
    (photos.parent / "train").rename(root / "train")
    (root / "test").mkdir()
    for name in ("plane", "car"):
        (root / "test" / name).mkdir()
        (root / "train" / name / "1.png").rename(root / "test" / name / "1.png")
    found = load(root)
    assert len(decoded) == 118
    screening.screen(found, on_bad="fail", terminal=SILENT)
    assert len(decoded) == 120


def test_too_many_images_are_not_compared_and_that_is_told(photos, monkeypatch):
    monkeypatch.setattr(copies, "MOST", 100)
    found = load(photos)
    assert found.copies["near"] is None
    assert any("not looked for" in note for note in found.notes)


def test_a_test_folder_keeps_what_has_copies_in_train(photos):
    photos.rename(photos.parent / "train")
    root = photos.parent / "all"
    root.mkdir()
    (photos.parent / "train").rename(root / "train")
    for name in ("plane", "car"):
        (root / "test" / name).mkdir(parents=True)
        (root / "train" / name / "1-web.jpg").rename(root / "test" / name / "1-web.jpg")
    found = splits(load(root))
    assert {path for path, split in found.items() if split == "test"} == {"test/car/1-web.jpg", "test/plane/1-web.jpg"}
    inside = {path: split for path, split in found.items() if path.startswith("train/")}
    assert sum(one != other for one, other in pairs(inside)) <= 1
    assert "val" in inside.values()


def test_a_test_folder_with_exact_copies_of_training_images_is_told(photos):
    (photos.parent / "all" / "test").mkdir(parents=True)
    photos.rename(photos.parent / "all" / "train")
    root = photos.parent / "all"
    for name in ("plane", "car"):
        (root / "test" / name).mkdir()
        (root / "test" / name / "same.png").write_bytes((root / "train" / name / "1.png").read_bytes())
    found = load(root)
    assert found.copies["drawn"] == ["val"]
    assert found.copies["test_with_exact_copy_elsewhere"] == 2
    assert any("own test split: 2 images" in note and "flatter" in note for note in found.notes)
    assert not any("draw without that" in note for note in found.notes)


def test_equal_images_with_contradictory_labels_are_told_with_their_files(photos):
    for number in (2, 4):
        (photos / "car" / f"also {number}.png").write_bytes((photos / "plane" / f"{number}.png").read_bytes())
    found = load(photos)
    assert found.copies["contradictory"] == 2
    note = next(note for note in found.notes if "2 groups of exact copies have contradictory labels: " in note)
    assert "car/also 2.png = plane/2.png" in note
    assert "Correct or remove" in note
