"""Data sets of image files: facts, splits, ledger, and images that can't be read."""

import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from headstart.contracts import ClassNames
from headstart.data import dataset
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.ledger import read_ledger
from headstart.data.screening import screen
from headstart.data.sources import facts
from headstart.data.splits import build_manifest
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.runs.run import Run
from headstart.terminal import Terminal
from headstart.workflows.load import as_started

QUIET = Terminal(enabled=False)


def draw(path, seed, *, size=(12, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photos(tmp_path, own_home, monkeypatch):
    """Two classes of 20 images each, which are remembered although they were written a moment ago."""
    monkeypatch.setattr(facts, "_SETTLED", 0)
    root = tmp_path / "photos"
    for i in range(20):
        draw(root / "cat" / f"{i}.png", i)
        draw(root / "dog" / f"{i}.jpg", 100 + i)
    return root


def load(root, **options):
    return load_dataset(str(root), progress=False, options=FileOptions(**options))


def rows(dataset):
    return {row.path: row for row in dataset.ledger.rows}


def test_a_folder_of_classes_becomes_three_splits(photos):
    found = load(photos)
    assert found.name == "photos"
    assert found.class_names.names == ("cat", "dog")
    assert len(found.train) + len(found.sealed_test) == 40
    assert 0 < len(found.val) < len(found.train)
    assert set(found.val.rows) < set(found.train.rows)
    splits = {path: row.split for path, row in rows(found).items()}
    source = found.val.source
    assert {source.path(row) for row in found.val.rows} == {path for path, split in splits.items() if split == "val"}
    assert source.image(0).shape == (8, 12, 3)
    assert source.sizes.tolist()[0] == [12, 8]


def test_no_image_is_hashed_twice(photos, monkeypatch):
    first = load(photos)
    draw(photos / "cat" / "7.png", 7000)
    looked_at = []
    look = facts.look_at
    monkeypatch.setattr(facts, "look_at", lambda path: looked_at.append(path.name) or look(path))
    second = load(photos)
    assert looked_at == ["7.png"]
    assert first.sha256 != second.sha256


def test_files_that_swapped_their_names_are_hashed_again(photos):
    names = [photos / name / "same.bmp" for name in ("cat", "dog")]
    for seed, path in enumerate(names):
        draw(path, 800 + seed)
        os.utime(path, (1e9, 1e9))
    before = rows(load(photos))
    names[0].rename(photos / "kept.bmp")
    names[1].rename(names[0])
    (photos / "kept.bmp").rename(names[1])
    after = rows(load(photos))
    assert before["cat/same.bmp"].sha256 == after["dog/same.bmp"].sha256 != after["cat/same.bmp"].sha256


def test_files_changed_just_now_are_not_remembered(photos, monkeypatch):
    later = time.time() + 60
    os.utime(photos / "cat" / "7.png", (later, later))
    load(photos)
    looked_at = []
    look = facts.look_at
    monkeypatch.setattr(facts, "look_at", lambda path: looked_at.append(path.name) or look(path))
    load(photos)
    assert looked_at == ["7.png"]


def test_an_index_that_is_damaged_is_told_and_replaced_by_looking(photos, own_home, caplog):
    before = load(photos)
    (index,) = (own_home / "files").iterdir()
    index.write_bytes(b"no database" * 100)
    assert load(photos).sha256 == before.sha256
    assert "can't be used" in caplog.text


def test_images_added_later_move_none_from_test_to_train(photos):
    before = rows(load(photos))
    for i in range(20, 28):
        draw(photos / "cat" / f"{i}.png", i)
    after = rows(load(photos))
    assert [path for path, row in before.items() if row.split == "test" and after[path].split != "test"] == []


def test_a_limit_keeps_a_stratified_share_and_the_whole_test_split(photos):
    whole = load(photos)
    limited = load_dataset(str(photos), limit=10, progress=False)
    assert len(limited.train) == 10
    assert sorted(np.bincount(limited.train.labels)) == [5, 5] or min(np.bincount(limited.train.labels)) >= 4
    assert limited.sealed_test.image_hashes() == whole.sealed_test.image_hashes()
    assert limited.sha256 == whole.sha256
    statuses = [row.status for row in limited.ledger.rows]
    assert statuses.count("ignored") == len(whole.train) - 10
    with pytest.raises(DataError, match="1,000"):
        load_dataset(str(photos), limit=1000, progress=False)


def test_the_ledger_tells_what_became_of_each_file(photos):
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(photos / "cat" / "turned.jpg", 500, exif=turned)
    Image.new("CMYK", (5, 5)).save(photos / "cat" / "print.jpg")
    (photos / "dog" / "same.jpg").write_bytes((photos / "dog" / "3.jpg").read_bytes())
    (photos / "dog" / "notes.txt").write_text("no image")
    (photos / "dog" / "empty.jpg").touch()
    found = load(photos)
    told = rows(found)
    assert (told["cat/turned.jpg"].status, told["cat/turned.jpg"].width) == ("turned", 8)
    assert (told["cat/print.jpg"].status, told["cat/print.jpg"].reason) == ("converted", "CMYK")
    assert (told["dog/same.jpg"].status, told["dog/same.jpg"].reason) == ("copy", "exact copy of dog/3.jpg")
    assert told["dog/same.jpg"].split == told["dog/3.jpg"].split
    assert told["dog/notes.txt"].status == "ignored"
    assert (told["dog/empty.jpg"].status, told["dog/empty.jpg"].split) == ("refused", "")
    assert len(told) == 45
    found.ledger.write(photos.parent / "files.csv")
    assert tuple(read_ledger(photos.parent / "files.csv")) == found.ledger.rows


def test_all_images_that_cannot_be_read_are_named_at_once_or_left_out(photos, capsys):
    whole = (photos / "dog" / "5.jpg").read_bytes()
    (photos / "dog" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "1.png").write_bytes(b"")
    (photos / "cat" / "words.png").write_text("no image")
    found = load(photos)
    with pytest.raises(DataError) as error:
        screen(found, on_bad="fail", terminal=QUIET)
    message = str(error.value)
    assert "3 of the 41 files" in message
    assert "--on-bad skip" in message
    assert all(f"{path}:" in message for path in ("dog/5.jpg", "cat/1.png", "cat/words.png"))
    left = screen(found, on_bad="skip", terminal=QUIET)
    assert "3 of 41 files" in capsys.readouterr().err
    assert len(left.train) + len(left.sealed_test) == 38
    assert left.ledger.counts() == {"used": 38, "refused": 3}
    remaining = {left.train.source.path(row) for row in left.train.rows}
    assert "dog/5.jpg" not in remaining


def test_no_image_is_decoded_twice_to_learn_whether_it_can_be(photos, monkeypatch):
    from headstart.data import screening

    screen(load(photos), on_bad="fail", terminal=QUIET)
    monkeypatch.setattr(screening, "decode_file", lambda *_, **__: pytest.fail("decoded again"))
    screen(load(photos), on_bad="fail", terminal=QUIET)


def test_a_folder_without_one_image_that_can_be_read_is_named(tmp_path, own_home):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"No image in .* can be read \(2 files; the first is cat/a\.png: not an image"):
        load(tmp_path, on_bad="skip")


def test_a_class_whose_files_can_not_be_opened_does_not_hide_which(photos):
    for path in (photos / "cat").iterdir():
        path.write_bytes(b"\0\0\0\x18ftypheic" if path.stem == "3" else b"no image")
    with pytest.raises(DataError, match=r"(?s)^20 of the 40 files.*on-bad skip.*cat/3\.png: "):
        load(photos)
    with pytest.raises(DataError, match=r"class 'cat' has no images.*Left out are 20 files: .*not an image"):
        load(photos, on_bad="skip")


def test_a_class_that_loses_its_last_image_is_named(tmp_path, own_home):
    for i in range(20):
        draw(tmp_path / "data" / "cat" / f"{i}.png", i)
        (tmp_path / "data" / "dog").mkdir(exist_ok=True)
        draw(tmp_path / "data" / "dog" / f"{i}.png", 100 + i)
        path = tmp_path / "data" / "dog" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="'dog'"):
        screen(load(tmp_path / "data"), on_bad="skip", terminal=QUIET)


@pytest.mark.parametrize("twins", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_look_nearly_alike_stay_apart_and_are_told(photos, caplog, twins):
    for i in range(5):
        draw(photos / twins[0] / f"new {i}.png", 300 + i)
        draw(photos / twins[1] / f"new {i}.png", 400 + i)
    assert set(load(photos).class_names.names) == {"cat", "dog", *twins}
    assert all(f"'{name}'" in caplog.text for name in twins)
    caplog.clear()
    load(photos, classifier=ClassNames(("cat", twins[0])))
    assert ("differ only" in caplog.text) is (twins[0] == "Cat")


def test_a_class_with_one_image_is_named(photos):
    draw(photos / "bird" / "0.png", 300)
    with pytest.raises(DataError, match="'bird' has 1 image"):
        load(photos)


def test_options_for_files_are_refused_where_there_are_none(sample_dir, own_home):
    with pytest.raises(DataError, match=r"data\.on_bad"):
        load(sample_dir, on_bad="skip")


def test_the_users_folder_is_only_read(photos):
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    screen(load(photos), on_bad="fail", terminal=QUIET)
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_groups_found_in_paths_stay_on_one_side(photos):
    found = load(photos, group_from=r"(\d)\.")
    homes = {}
    for row in found.ledger.rows:
        homes.setdefault(row.group, set()).add(row.split)
    assert len(homes) == 10
    assert all(len(splits) == 1 for splits in homes.values())
    assert found.copies["divided_groups"] == 0


def test_groups_that_the_splits_of_a_data_set_divide_are_told(photos):
    for name in ("cat", "dog"):
        draw(photos / "test" / name / "7.png", 300 + len(name) + ord(name[0]))
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
    draw(photos / "test" / "cat" / "of its own.png", 500)
    found = load(photos, group_from=r"([^/]+)\.")
    assert any("own splits divide 1 group; files.csv" in note for note in found.notes)


@pytest.mark.parametrize(
    ("pattern", "words"), [("(", "no regular expression"), (r"\d", "parentheses"), (r"cat/(\d)", "20 paths.*dog/0")]
)
def test_a_pattern_that_finds_no_groups_is_refused(photos, pattern, words):
    with pytest.raises(DataError, match=words):
        load(photos, group_from=pattern)


def kept(dataset, **changes):
    """Return options under which every image stays where a manifest of ``dataset`` has it."""
    val = dataset.val
    train = Subset(dataset.train.source, np.setdiff1d(dataset.train.rows, val.rows), "train")
    manifest = build_manifest(train, val, dataset.sealed_test)
    return manifest, {"former": manifest.former((), test_drawn="test" in dataset.copies["drawn"])} | changes


def test_a_manifest_knows_renamed_files_by_their_content(photos):
    before = load(photos)
    manifest, options = kept(before)
    (photos / "cat" / "0.png").rename(photos / "cat" / "zz.png")
    (photos / "cat" / "5.png").rename(photos / "cat" / "00.png")
    found = load(photos, **options)
    manifest.check(found)
    assert found.notes == ()
    assert found.train.rows.tolist() == before.train.rows.tolist()
    assert found.train.identities == before.train.identities
    assert found.sealed_test.image_hashes() == before.sealed_test.image_hashes()
    for split in ("train", "val"):
        chosen = manifest.select(found.train, split)
        assert list(chosen.identities) == [row.sha256 for row in manifest.rows if row.split == split]
        assert chosen.name == split


def test_a_class_that_was_added_later_is_left_out(photos):
    manifest, options = kept(load(photos))
    for i in range(5):
        draw(photos / "bird" / f"{i}.png", 300 + i)
    found = load(photos, **options)
    manifest.check(found)
    assert found.class_names.names == ("cat", "dog")
    assert any("5 images" in note and "bird/0.png" in note for note in found.notes)


def test_what_a_limit_left_out_stays_in_its_place(photos):
    limited = load_dataset(str(photos), limit=10, progress=False, options=FileOptions())
    manifest, _ = kept(limited)
    left_out = [row.sha256 for row in limited.ledger.rows]
    (photos / "cat" / "0.png").rename(photos / "cat" / "zz.png")
    found = load(photos, former=manifest.former(left_out, test_drawn=True))
    manifest.check(found)
    assert found.notes == ()
    assert found.train.rows.tolist() == limited.train.rows.tolist()
    assert found.train.identities == limited.train.identities


def test_copies_beyond_a_limit_and_added_ones_stay_left_out(photos):
    for i in range(20):
        shutil.copy(photos / "cat" / f"{i}.png", photos / "cat" / f"{i} copy.png")
    for limit in (10, 11):
        limited = load_dataset(str(photos), limit=limit, progress=False)
        manifest, _ = kept(limited)
        found = load(photos, former=manifest.former([row.sha256 for row in limited.ledger.rows], test_drawn=True))
        manifest.check(found)
        assert found.train.identities == limited.train.identities
    manifest, options = kept(load(photos))
    shutil.copy(photos / "dog" / "0.jpg", photos / "dog" / "again.jpg")
    found = load(photos, **options)
    manifest.check(found)
    assert any("1 image" in note and "dog/again.jpg" in note for note in found.notes)


def test_the_hash_of_the_data_does_not_depend_on_what_is_known_of_damage(photos):
    whole = (photos / "dog" / "5.jpg").read_bytes()
    (photos / "dog" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    first = load(photos)
    screen(first, on_bad="skip", terminal=QUIET)
    second = load(photos)
    assert rows(second)["dog/5.jpg"].status == "refused"
    assert second.sha256 == first.sha256


def test_added_files_are_left_out_and_told_and_vanished_ones_are_refused(photos):
    manifest, options = kept(load(photos))
    draw(photos / "cat" / "new.png", 999)
    found = load(photos, **options)
    manifest.check(found)
    assert len(found.train) + len(found.sealed_test) == 40
    assert any("1 image" in note and "cat/new.png" in note for note in found.notes)
    (photos / "cat" / "3.png").unlink()
    (photos / "cat" / "4.png").rename(photos / "dog" / "4.png")
    with pytest.raises(DataError, match=r"files\.csv") as problem:
        manifest.check(load(photos, **options))
    assert "1 vanished" in str(problem.value)
    assert "1 relabelled" in str(problem.value)
    assert "from 'cat' to 'dog'" in str(problem.value)


def test_images_moved_between_folders_of_splits_are_refused(photos):
    for split, numbers in {"test": range(5), "train": range(5, 20)}.items():
        for name, suffix in (("cat", "png"), ("dog", "jpg")):
            (photos.parent / "all" / split / name).mkdir(parents=True)
            for number in numbers:
                file = f"{number}.{suffix}"
                (photos / name / file).rename(photos.parent / "all" / split / name / file)
    root = photos.parent / "all"
    manifest, options = kept(load(root))
    manifest.check(load(root, **options))
    (root / "test" / "cat" / "0.png").rename(root / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match="1 moved from test to train"):
        manifest.check(load(root, **options))


def test_test_images_drawn_out_of_a_train_folder_are_known_again(photos):
    for name in ("cat", "dog"):
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
    before = load(photos)
    manifest, options = kept(before)
    found = load(photos, **options)
    manifest.check(found)
    assert found.train.identities == before.train.identities
    assert found.val.rows.tolist() == before.val.rows.tolist()
    assert found.sealed_test.image_hashes() == before.sealed_test.image_hashes()
    (photos / "val" / "cat").mkdir(parents=True)
    (photos / "train" / "cat" / "0.png").rename(photos / "val" / "cat" / "0.png")
    found = load(photos, **options)
    manifest.check(found)
    assert found.val.identities == before.val.identities


def test_copies_in_both_train_and_val_stay_where_they_are_though_files_move(photos):
    for name in ("cat", "dog"):
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        draw(photos / "val" / name / "own.png", 300 + len(name) + ord(name[0]))
    copied = [photos / split / "cat" / "3.png" for split in ("train", "val")]
    shutil.copy(*copied)
    before = load(photos)
    train = Subset(before.train.source, np.setdiff1d(before.train.rows, before.val.rows), "train")
    manifest, options = kept(before)
    assert set(train.identities) & set(before.val.identities)
    assert load(photos, **options).val.rows.tolist() == before.val.rows.tolist()
    copied[0].rename(copied[1].with_name("4.png"))
    run = Run(photos.parent / "run")
    run.path.mkdir()
    run.write_manifest(manifest)
    found = as_started(run, load(photos, **options))
    assert sorted(found.val.identities) == sorted(before.val.identities)
    again = manifest.select(found.train, "train")
    assert again.identities == train.identities
    assert not set(again.rows) & set(found.val.rows)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_share_is_refused_where_the_data_set_has_that_split(photos, split):
    for name in ("cat", "dog"):
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        draw(photos / split / name / "a.png", 300 + len(name) + ord(name[0]))
    found = load(photos)
    assert len(found.sealed_test if split == "test" else found.val) == 2
    assert any("its own 2 images" in note for note in found.notes)
    with pytest.raises(DataError, match=rf"{split}_fraction \(0\.3\)"):
        load(photos, **{f"{split}_fraction": 0.3})


def test_a_data_set_without_images_to_train_on_is_refused(photos):
    (photos / "test").mkdir()
    for name in ("cat", "dog"):
        (photos / name).rename(photos / "test" / name)
    with pytest.raises(DataError, match=r"no images to train on.*'train' folder"):
        load(photos)


def test_a_file_that_vanishes_while_the_data_set_is_read_is_named(photos, monkeypatch):
    real = dataset.discover

    def reading(*arguments, **options):
        found = real(*arguments, **options)
        (photos / "cat" / "3.png").unlink()
        return found

    monkeypatch.setattr(dataset, "discover", reading)
    loaded = load(photos)
    with pytest.raises(DataError, match=r"(?s)1 of the 40 files.*cat/3\.png: no such file"):
        screen(loaded, on_bad="fail", terminal=QUIET)
    kept = screen(loaded, on_bad="skip", terminal=QUIET)
    assert len(kept.train) + len(kept.sealed_test) == 39


def test_a_file_that_is_replaced_while_the_data_set_is_read_is_named(photos):
    source = load(photos).train.source
    path = photos / source.path(0)
    pixels = source.image(0)
    path.touch()
    assert np.array_equal(source.image(0), pixels)  # what only looks changed is hashed again
    draw(path, 999)
    with pytest.raises(DataError, match=rf"{path} can't be read: the file was changed"):
        source.image(0)


def test_one_class_is_refused(photos):
    for path in (photos / "dog").iterdir():
        path.unlink()
    (photos / "dog").rmdir()
    with pytest.raises(DataError, match=r"at least two classes.*only 'cat'"):
        load(photos)


def test_equal_images_under_two_labels_are_told(photos):
    shutil.copy(photos / "cat" / "3.png", photos / "dog" / "same.png")
    found = load(photos)
    assert found.copies["contradictory"] == 1
    assert any("cat/3.png" in note and "dog/same.png" in note for note in found.notes)


def test_names_of_many_letters_and_bytes_are_used(photos):
    draw(photos / "dog" / f"{'x' * 240}.png", 900)
    draw(photos / "dog" / os.fsdecode(b"caf\xe9.png"), 901)
    ledger = load(photos, group_from=r"([^/]+)\.").ledger
    assert {row.status for row in ledger.rows} == {"used"}
    ledger.write(photos.parent / "files.csv")
    assert r"caf\xe9" in {row.group for row in read_ledger(photos.parent / "files.csv")}
    draw(photos / os.fsdecode(b"caf\xe9") / "a.png", 902)
    with pytest.raises(DataError, match=r"not UTF-8.*caf"):
        load(photos)
