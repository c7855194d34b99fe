"""``headstart explore`` on real pictures: what it prints, what it writes, what it refuses, and what it finds."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.cli import main
from headstart.cli.explore import _text
from headstart.contracts import unguarded
from headstart.data.arrays import Arrays
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.sources.arrays import write_store
from headstart.errors import DataError, RecipeError
from headstart.workflows.explore import FEATURE_SIZE
from headstart.workflows.explore_files import default_folder

PLANTED = {"exact": (3, 20), "near": (5, 31), "constant": 11}
"""(training row, test row) of the copies, and the training row of an image of a single color."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a cache of its own for the whole file, so that features are computed once."""
    folder = tmp_path_factory.mktemp("explore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_HOME", str(folder / "home"))
        # A quarter of the pixels; how well labels are judged at either size is measured elsewhere.
        patch.setattr("headstart.workflows.explore.LABEL_SIZE", FEATURE_SIZE)
        yield folder


@pytest.fixture(scope="module")
def planted(place, sample_arrays, sample):
    """A small data set with one exact copy, one near copy and one empty picture."""
    train, test = sample_arrays.train_images[:200].copy(), sample_arrays.test_images[:40].copy()
    test[PLANTED["exact"][1]] = train[PLANTED["exact"][0]]
    brighter = np.clip(train[PLANTED["near"][0]].astype(np.int64) * 1.15 + 10, 0, 255).astype(np.uint8)
    test[PLANTED["near"][1], :, :-1] = brighter[:, 1:]
    train[PLANTED["constant"]] = 90
    labels = sample_arrays.train_labels[:200], sample_arrays.test_labels[:40]
    write_store(
        place / "planted",
        Arrays(train, labels[0], test, labels[1]),
        name="planted",
        class_names=sample.class_names,
        source="made for a test",
    )
    return place / "planted"


@pytest.fixture(scope="module")
def found(planted, place):
    return headstart.explore(str(planted), out=place / "out", progress=False)


def test_json_is_what_the_file_holds(planted, place, found, capsys):
    assert main(["explore", str(planted), "--out", str(place / "again"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((place / "again" / "explore.json").read_text())
    assert {path.name for path in (place / "again").iterdir()} == {
        "explore.json",
        "explore.html",
        "review.html",
        "quality.csv",
        "copies.csv",
        "outliers.csv",
    }
    assert (printed["data"]["seed"], printed["data"]["val_fraction"]) == (None, None)
    for same in ("train", "test", "duplicates", "outliers", "class_names", "features"):
        assert printed[same] == found[same]
    assert printed["test_opening"]["command"].startswith("headstart explore")
    assert len(list((place / "home" / "features").glob("*.npy"))) == 2


def test_the_figures_are_those_of_the_images(planted, found):
    train = np.load(planted / "train_images.npy")
    assert found["train"]["n"] == 200
    assert found["test"]["n"] == 40
    assert found["train"]["shape"] == found["test"]["shape"] == [32, 32, 3]
    assert found["train"]["mean"] == round(train.astype(np.float64).mean(), 2)
    assert found["train"]["scaled"]["std"] == round((train / 255).std(), 4)
    assert sum(found["train"]["class_counts"].values()) == 200


def test_what_is_wrong_with_the_data_is_found(found):
    assert found["train"]["constant"] == {"n": 1, "rows": [PLANTED["constant"]]}
    copies = found["duplicates"]
    (exact,) = copies["exact"]["list"]
    assert [(image["split"], image["row"]) for image in exact] == [
        ("train", PLANTED["exact"][0]),
        ("test", PLANTED["exact"][1]),
    ]
    (near,) = copies["near"]["list"]
    assert [(image["split"], image["row"]) for image in near["images"]] == [
        ("train", PLANTED["near"][0]),
        ("test", PLANTED["near"][1]),
    ]
    assert copies["near"]["pairs"] == {"train+train": 0, "train+test": 1, "test+test": 0}
    assert copies["test_images"]["copied_in_train"] == 2
    assert copies["test_images"]["copied_in_train_share"] == 0.05
    assert copies["test_images"]["copied_anywhere"] == 2
    levels = list(copies["test_images"]["copied_in_train_by_correlation"].values())
    assert levels[0] == 2
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] >= 1  # an exact copy passes every limit


def test_each_class_has_its_outliers_in_order(found, planted):
    labels = np.load(planted / "train_labels.npy")
    for index, name in enumerate(found["class_names"]):
        images = found["outliers"][name]
        assert images
        assert all(labels[image["row"]] == index for image in images)
        likeness = [image["likeness"] for image in images]
        assert likeness == sorted(likeness)


class Loads(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_self_contained(found, place):
    page = (place / "out" / "explore.html").read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(page)
    assert len(loads.fetched) > 100
    beside = {value for value in loads.fetched if not value.startswith("data:")}
    assert beside == {"review.html", "quality.csv", "copies.csv", "outliers.csv"}
    assert all((place / "out" / name).is_file() for name in beside)
    assert {"script", "iframe", "object", "embed"} & set(loads.tags) == set()
    assert re.findall(r"@import|url\(|https?://", page) == []
    assert "default-src 'none'" in page


def test_the_page_shows_the_figures_and_a_table_behind_each_chart(found, place, planted):
    page = (place / "out" / "explore.html").read_text(encoding="utf-8")
    assert f"{found['train']['mean']:.2f}" in page
    assert f"{found['train']['scaled']['std']:.4f}" in page
    assert "2 of 40 test images (5.0%)" in page
    assert page.count("<svg") == 5
    assert page.count("<table") >= 8
    assert page.count('role="img"') == page.count("<title id=")
    for name in found["class_names"]:
        assert f"<dt>{name}</dt>" in page
    copies = page.partition('id="duplicates"')[2]
    rows = re.findall(r'<th scope="row">(\w+ [^<]+)</th><td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>', copies)
    told = [(name, int(equal) + int(near)) for name, equal, near, _ in rows]
    assert told == list(found["duplicates"]["relations"].items())[::-1], "what matters most comes first"
    for kind in ("exact", "near"):
        train, test = PLANTED[kind]
        labels = [np.load(planted / f"{split}_labels.npy")[row] for split, row in (("train", train), ("test", test))]
        heading = "Across splits" if labels[0] == labels[1] else "Across splits and classes"
        of_this = copies.partition(f"<h3>{heading}:")[2].partition("<h3>")[0]
        assert f"train/{train}<br>test/{test}<br>" in of_this.replace("<wbr>", "")


def test_its_own_page_is_replaced_and_no_other(planted, place, found, capsys):
    own = place / "own"
    assert main(["explore", str(planted), "--out", str(own), "--quiet"]) == 0
    (own / "notes.txt").write_text("kept")
    for earlier in ("label_errors.csv", "files.csv"):
        (own / earlier).write_text("of a call with other options")
    words = ["--labels-from", str(own / "label_errors.csv"), "--out", str(own)]
    assert main(["explore", str(planted), *words]) == 2
    assert "your corrections would be lost" in capsys.readouterr().err
    assert main(["explore", str(planted), "--out", str(own), "--quiet"]) == 0
    assert {path.name for path in own.glob("*.csv")} == {"quality.csv", "copies.csv", "outliers.csv"}
    out = capsys.readouterr().out
    assert f"Page        {own / 'explore.html'}" in out
    assert "2 test images (5.00%) with a copy" in out
    (own / "explore.html").write_text("<p>somebody else's")
    assert main(["explore", str(planted), "--out", str(own)]) == 2
    assert "--out" in capsys.readouterr().err
    assert (own / "explore.html").read_text() == "<p>somebody else's"
    assert (own / "notes.txt").read_text() == "kept"


def test_a_file_can_not_hold_the_page(planted, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["explore", str(planted), "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cifr10"], "Did you mean 'cifar10'?"),
        (["cifar10", "--device", "gpu"], "cuda:N"),
        ([], "DATA"),
    ],
)
def test_wrong_usage_is_answered(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_does_not_fit_and_what_would_change_nothing_are_refused(planted, tmp_path, capsys):
    for words in (["--seed", "1"], ["--val-fraction", "0.2"]):
        assert main(["explore", str(planted), *words, "--out", str(tmp_path / "out")]) == 2
        assert "would change nothing" in capsys.readouterr().err
    for limit in ("0", "201"):
        assert main(["explore", str(planted), "--limit", limit, "--out", str(tmp_path / "out")]) == 2
        assert "limit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_lists_are_tables_as_well(found, place):
    copies = list(csv.DictReader((place / "out" / "copies.csv").read_text().splitlines()))
    assert [(row["kind"], row["file_name"]) for row in copies] == [
        ("exact", f"train/{PLANTED['exact'][0]}"),
        ("exact", f"test/{PLANTED['exact'][1]}"),
        ("near", f"train/{PLANTED['near'][0]}"),
        ("near", f"test/{PLANTED['near'][1]}"),
    ]
    assert all(row["relation"].startswith("across splits") for row in copies)
    assert sum(found["duplicates"]["relations"].values()) == 2
    issues = list(csv.DictReader((place / "out" / "quality.csv").read_text().splitlines()))
    assert {row["issue"] for row in issues if row["file_name"] == f"train/{PLANTED['constant']}"} >= {
        "blurred",
        "low_information",
    }
    outliers = list(csv.DictReader((place / "out" / "outliers.csv").read_text().splitlines()))
    assert [(row["label"], row["file_name"], float(row["likeness"]), row["split"]) for row in outliers] == [
        (name, f"train/{image['row']}", image["likeness"], "train")
        for name, images in found["outliers"].items()
        for image in images
    ]


def test_wrong_labels_are_found_and_only_on_request(planted, place, found, capsys):
    assert found["label_errors"] is None
    assert main(["explore", str(planted), "--labels", "--out", str(place / "labels"), "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["label_errors"]
    assert (errors["splits"], errors["judged"]) == (["train"], 200)
    rows = list(csv.DictReader((place / "labels" / "label_errors.csv").read_text().splitlines()))
    assert len(rows) == max(50, errors["suspected"])
    labels = np.load(planted / "train_labels.npy")
    for row, image in zip(rows, errors["list"], strict=True):
        assert row["file_name"] == f"train/{image['row']}"
        assert found["class_names"][labels[image["row"]]] == row["label"] != row["suggested"]
    assert "Suspected label errors" in (place / "labels" / "explore.html").read_text()


def test_labels_of_the_test_split_are_looked_at_on_request_and_that_is_recorded(planted, place, found, capsys):
    words = ["explore", str(planted), "--out", str(place / "all"), "--json"]
    assert main([*words, "--all-splits"]) == 2
    assert "--labels" in json.loads(capsys.readouterr().out)["error"]
    assert main([*words, "--labels", "--all-splits"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["label_errors"]["splits"], printed["label_errors"]["judged"]) == (["train", "test"], 240)
    assert "label errors" in printed["test_opening"]["purpose"]
    assert "nothing was fitted" in found["test_opening"]["purpose"]


def test_a_folder_with_other_files_and_a_folder_of_images_are_left_alone(planted, tmp_path, capsys):
    (tmp_path / "copies.csv").write_text("mine")
    assert main(["explore", str(planted), "--out", str(tmp_path)]) == 2
    assert "something else than an exploration" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copies.csv"]
    images = tmp_path / "images"
    (images / "cat").mkdir(parents=True)
    for inside in (images, images / "cat" / "page"):
        assert main(["explore", str(images), "--out", str(inside)]) == 2
        assert "whose folders are read as classes" in capsys.readouterr().err
    assert not (images / "cat" / "page").exists()


def test_the_page_of_other_data_of_that_name_is_not_replaced(planted, place, found, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "out", "explore-planted")
    assert str(default_folder(str(planted))) == "explore-planted"
    shutil.copytree(planted, "site-b/planted")
    assert main(["explore", "site-b/planted"]) == 2
    assert f"other data, {planted}, which would be lost. Name another folder with --out" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path, sample_arrays):
    """A folder of photographs of different sizes, their middles among them; one is truncated, one has two labels.

    A spreadsheet would take the name of a class for a formula.
    """
    root = tmp_path / "photos"
    for row in range(60):
        label = ("=sum(A1)", "cat")[sample_arrays.train_labels[row] % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(sample_arrays.train_images[row]).resize((160 + row % 3, 120))
        image.save(root / label / f"{row:02}.jpg")
        if row % 3 == 0:
            image.crop((20, 0, 140, 120)).save(root / label / f"{row:02}-square.png")
    whole = sorted(root.rglob("*.jpg"))
    (whole[-1].parent / "same.jpg").write_bytes(whole[3].read_bytes())
    bad = whole[0].parent / "bad.jpg"
    bad.write_bytes(whole[0].read_bytes()[:1500])
    whole[-1].parent.joinpath("wide.png").write_bytes(_png((300, 40)))
    return root


def _png(size):
    content = io.BytesIO()
    Image.effect_noise(size, 60).save(content, format="PNG")
    return content.getvalue()


def test_a_folder_of_photographs_is_explored_and_files_that_can_not_be_read_are_named(photos, place, capsys):
    out = photos.parent / "out"
    before = sorted(photos.rglob("*"))
    assert main(["explore", str(photos), "--labels", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"]["counts"]["refused"] == 1
    assert [len(paths) for paths in found["files"]["refused"].values()] == [1]
    assert "160" in " ".join(found["train"]["sizes"])
    assert found["duplicates"]["test_images"]["copied_in_train"] == 0, "training keeps copies in one split"
    assert len(found["duplicates"]["near"]["list"]) >= 18
    assert "Drew" in found["splits"][0]
    text = _text(found, out)
    assert f"Splits      {found['splits'][0]}" in text
    assert "Conflicts   1 group of exact copies has contradictory labels" in text
    assert "NaN" not in text
    assert "scaled" not in text
    assert "/same.jpg" in text
    assert len(found["quality"]["issues"]["odd_aspect"]) == 1
    with (out / "quality.csv").open() as file:
        odd = [row["file_name"] for row in csv.DictReader(file) if row["issue"] == "odd_aspect"]
    assert odd[0].endswith("wide.png")
    with (out / "label_errors.csv").open() as file:
        assert all((photos / unguarded(row["file_name"])).is_file() for row in csv.DictReader(file))
    for path in out.glob("*.csv"):
        cells = [cell for row in csv.reader(path.read_text().splitlines()) for cell in row]
        assert [cell for cell in cells if cell.startswith("=")] == []
    table = (out / "label_errors.csv").read_text().splitlines()
    name, label, suggested, *rest = table[1].split(",")
    (out / "label_errors.csv").write_text(
        "\n".join([table[0], ",".join([name, suggested, suggested, *rest]), *table[2:]])
    )
    corrected = load_dataset(str(photos), options=FileOptions(labels_from=str(out / "label_errors.csv"), on_bad="skip"))
    name, label, suggested = map(unguarded, (name, label, suggested))
    assert {row.path: row.label for row in corrected.ledger.rows}[name] == suggested != label
    assert "bad.jpg" in (out / "explore.html").read_text()
    assert "bad.jpg" in (out / "files.csv").read_text()
    assert sorted(photos.rglob("*")) == before, "the user's folder is never written to"


def test_a_test_folder_is_explored_as_training_takes_it(place, tmp_path, sample_arrays):
    for split, first, count in (("train", 0, 6), ("test", 12, 3)):
        for row in range(first, first + 2 * count):
            path = tmp_path / "photos" / split / ("odd" if row % 2 else "even") / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample_arrays.train_images[row]).save(path)
    copy = Image.open(tmp_path / "photos" / "train" / "odd" / "1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copy.save(tmp_path / "photos" / "test" / "odd" / "mirrored.png")
    data, group, where = (
        tmp_path / "photos",
        {"data.group_from": "([^/]+)$"},
        {"out": tmp_path / "out", "progress": False},
    )
    with pytest.raises(DataError, match="finds no group"):
        headstart.explore(data, overrides={"data.group_from": r"/(\d)[^/]*$|(mirrored)"}, **where)
    found = headstart.explore(data, overrides=group, **where)
    assert found.duplicates["test_images"]["copied_in_train"] == 1
    half = group | {"data.val_fraction": 0.5}
    drawn = [headstart.explore(data, overrides=half, seed=seed, **where) for seed in (None, 2)]
    assert len({one.splits[0] for one in drawn}) == 2
    assert all("50% asked" in one.splits[0] for one in drawn)
    assert [(one.data["seed"], one.data["val_fraction"]) for one in drawn] == [(0, 0.5), (2, 0.5)]
    (pair,) = found.duplicates["near"]["list"]
    assert [image["file"] for image in pair["images"]] == ["train/odd/1.png", "test/odd/mirrored.png"]
    assert any("its own 7 images to test on, which stay there" in note for note in found.splits)
    with pytest.raises(RecipeError, match=r"on_bad.*'fail' or 'skip'"):
        headstart.explore(data, overrides={"data.on_bad": "never"}, **where)
    with pytest.raises(RecipeError, match="seed"):
        headstart.explore(data, seed=2**31, **where)
    with pytest.raises(DataError, match="test_fraction"):
        headstart.explore(data, overrides={"data.test_fraction": 0.3}, **where)


@pytest.mark.full_data
@pytest.mark.slow
def test_the_first_10000_images_of_cifar10(cifar10, tmp_path):
    found = headstart.explore("cifar10", limit=10_000, out=tmp_path / "out", progress=False)
    train = found["train"]
    assert (train["n"], found["test"]["n"]) == (10_000, 10_000)
    assert train["shape"] == found["test"]["shape"] == [32, 32, 3]
    counts = train["class_counts"]
    assert (min(counts.values()), counts["dog"]) == (937, 937)
    assert (max(counts.values()), counts["bird"]) == (1032, 1032)
    assert (train["mean"], train["std"]) == (121.04, 64.39)
    assert (train["scaled"]["mean"], train["scaled"]["std"]) == (0.4747, 0.2525)
    assert train["scaled"]["nan"] == train["scaled"]["inf"] == 0
    assert found["duplicates"]["exact"]["groups"] == 0
    assert found["duplicates"]["near"]["pairs"]["train+test"] > 30
