"""Finding image files, and what their places say."""

import os

import pytest

from headstart.data.sources.listing import list_folder, natural
from headstart.errors import DataError


def put(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def test_folders_are_classes_with_all_that_lies_below_them(tmp_path):
    found = list_folder(put(tmp_path, "cat/a.jpg", "cat/more/deep/b.PNG", "dog/c.webp", "dog/notes.txt"))
    assert [(file.path, file.label, file.split) for file in found.files] == [
        ("cat/a.jpg", "cat", ""),
        ("cat/more/deep/b.PNG", "cat", ""),
        ("dog/c.webp", "dog", ""),
    ]
    assert found.files[0].size == 1
    assert [path for path, _ in found.passed_over] == ["dog/notes.txt"]


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "valid", "testing"), ("train", "dev", None)]
)
def test_split_folders_are_understood_by_their_usual_names(tmp_path, train, val, test):
    homes = [home for home in (train, val, test) if home]
    put(tmp_path, "loose.jpg")
    found = list_folder(put(tmp_path, *(f"{home}/{name}/a.jpg" for home in homes for name in ("cat", "dog"))))
    assert found.passed_over == (("loose.jpg", "outside of the folders of splits"),)
    assert {file.split for file in found.files} == {"train", "val", *(["test"] if test else [])}
    assert {file.label for file in found.files} == {"cat", "dog"}


def test_folders_that_all_hold_the_same_folders_are_told(tmp_path, caplog):
    list_folder(put(tmp_path, "old/cat/a.jpg", "old/dog/a.jpg", "new/cat/a.jpg", "new/dog/a.jpg", "new/b.jpg"))
    assert "'new', 'old', though each has the folders 'cat', 'dog'" in caplog.text


def test_a_class_may_be_called_like_a_split(tmp_path):
    found = list_folder(put(tmp_path, "train/a.jpg", "bus/b.jpg"))
    assert {file.label for file in found.files} == {"train", "bus"}


def test_hidden_and_system_files_are_passed_over(tmp_path):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg", ".git/x.jpg", "__MACOSX/cat/a.jpg", "cat/._a.jpg", "cat/Thumbs.db")
    put(tmp_path, "cat/.DS_Store", "desktop.ini", ".hidden.jpg", "dog/Icon\r")
    found = list_folder(tmp_path)
    assert [file.path for file in found.files] == ["cat/a.jpg", "dog/b.jpg"]
    assert not found.passed_over


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "no images"),
        (["a.jpg", "b.jpg"], "2 images but no folders"),
        (["cat/a.jpg", "dog/b.jpg", "c.jpg"], "Beside the class folders .* there is 1 image: 'c.jpg'"),
        (["cat/a.jpg", "dog/notes.txt"], "'dog'.*suffix"),
        (["photos/cat/a.jpg", "photos/dog/b.jpg"], "did you mean .*photos"),
        (
            ["photos/cat/a.jpg", "photos/dog/b.jpg", "notes/x.txt"],
            "'notes', 'photos'.*'cat', 'dog'.*did you mean .*photos",
        ),
        (["photos/cat/a.jpg", "photos/dog/b.jpg", "screen.png"], "'screen.png'.*did you mean .*photos"),
        (["data/pets/train/cat/a.jpg", "data/pets/test/cat/b.jpg", "out/x.txt"], "did you mean .*data/pets"),
        (["train/cat/a.jpg", "training/cat/b.jpg"], "'train' and 'training'"),
        (["train/cat/a.jpg", "more/b.jpg"], "beside 'train'.*'more'"),
        (["train/cat/a.jpg", "val/b.jpg"], "outside of any class folder"),
        (["train/cat/a.jpg", "train/dog/notes.txt"], "train/dog"),
        (["train/a.jpg", "test/b.jpg"], "'test', 'train'.*no image has a label"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path, paths, words):
    with pytest.raises(DataError, match=words):
        list_folder(put(tmp_path, *paths))


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_empty_class_folder_beside_training_is_told(tmp_path, caplog, split):
    for path in ("train/cat/a.jpg", "train/dog/b.jpg", f"{split}/cat/c.jpg", f"{split}/dog/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = list_folder(tmp_path)
    assert len(found.files) == 3
    assert (f"{split}/dog", "a class folder without images") in found.passed_over
    assert f"'{split}/dog'" in caplog.text


def test_links_in_circles_end(tmp_path):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    (tmp_path / "dog/self.jpg").symlink_to(tmp_path / "dog/self.jpg")
    (tmp_path / "dog/nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    found = list_folder(tmp_path)
    assert [file.path for file in found.files] == ["cat/a.jpg", "dog/b.jpg", "dog/nowhere.jpg", "dog/self.jpg"]
    assert [file.size for file in found.files] == [1, 1, -1, -1]
    assert [path for path, _ in found.passed_over] == ["cat/again"]


def test_names_that_are_not_utf8_are_found_and_can_be_written(tmp_path):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    try:
        (tmp_path / "cat" / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = list_folder(tmp_path).files[1]
    assert found.shown == r"cat/caf\xe9.jpg"
    assert (tmp_path / found.path).exists()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path, "cat/a.jpg", "dog/closed/b.jpg")
    scan = os.scandir

    def refuse(path):
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"dog/closed.*no permission"):
        list_folder(tmp_path)


def test_names_are_sorted_as_people_do():
    assert sorted(["10", "9", "b", "A", "a2", "a10"], key=natural) == ["9", "10", "A", "a2", "a10", "b"]


def test_a_class_folder_in_place_of_its_parent_is_answered_with_that(tmp_path):
    put(tmp_path, "photos/cat/a.jpg", "photos/dog/b.jpg", "alone/c.jpg")
    with pytest.raises(DataError, match=rf"no folders\. Did you mean {tmp_path / 'photos'}\?"):
        list_folder(tmp_path / "photos" / "cat")
    with pytest.raises(DataError, match=r"no folders\. Give a folder"):
        list_folder(tmp_path / "alone")
    (tmp_path / "photos" / "stray.jpg").touch()
    with pytest.raises(DataError, match=rf"no folders\. Did you mean {tmp_path / 'photos'}\?"):
        list_folder(tmp_path / "photos" / "cat")
