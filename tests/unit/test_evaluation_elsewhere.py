"""A classifier on other data: which images count, what has moved, and what the command leaves behind."""

import csv
import errno
import json
import re

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.sources.arrays import write_store
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import InputError, RunError
from headstart.evaluation.elsewhere import _calibration, _difference, choose_images
from headstart.tasks.single_label import SINGLE_LABEL

NAMES = ("red", "green", "blue")
RECIPE = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "probe": None,
    "finetune": {"schedule": [{"epochs": 3, "size": 16}], "batch_size": 16, "lr": 0.01, "freeze": {"stages": 0}},
    "hardware": {"precision": "fp32", "memory_format": "contiguous"},
}


def coloured(n, names, *, seed, noise=30):
    """Images whose class is their colour."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % len(names)
    images = generator.integers(0, noise, (n, 16, 16, 3), dtype=np.uint8)
    for row, label in enumerate(labels):
        channel = NAMES.index(names[label]) if names[label] in NAMES else slice(None)
        images[row, :, :, channel] += 200
    return images, labels


def store(folder, names, *, seed, n=90, **kinds):
    images, labels = coloured(n, names, seed=seed, **kinds)
    arrays = Arrays(images[: n // 2], labels[: n // 2], images[n // 2 :], labels[n // 2 :])
    write_store(folder, arrays, name=folder.name, class_names=ClassNames(tuple(names)), source="made")
    return images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run and the data that it was trained on."""
    place = tmp_path_factory.mktemp("elsewhere")
    store(place / "own", NAMES, seed=0)
    headstart.train(place / "own", RECIPE, out=place / "run", progress=False, threads=1)
    return place


def test_classes_are_matched_by_name_and_what_is_unknown_is_named(place, capsys):
    store(place / "other", ("blue", "red", "white"), seed=1)
    assert main(["evaluate", str(place / "run"), "--on", str(place / "other"), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    folder = place / "run" / "on-other"
    written = json.loads((folder / "evaluation.json").read_text())
    assert found.items() <= written.items()
    assert {"command", "time", "weights_sha256"} <= set(written)
    assert found["figures"]["n"] == 60
    assert found["unknown_classes"] == {"white": 30}
    assert found["missing_classes"] == ["green"]
    assert found["doubts"]["unfamiliar_of_unknown_classes"] is not None
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["label"] for row in rows} == {"red", "blue"}
    assert sum(row["label"] == row["predicted"] for row in rows) / 60 == pytest.approx(
        found["figures"]["accuracy"], abs=1e-6
    )
    assert len((folder / "split_manifest.csv").read_text().splitlines()) == 91


def test_images_of_the_run_itself_do_not_count(place):
    own = store(place / "own-again", NAMES, seed=0)
    fresh, labels = coloured(30, NAMES, seed=5)
    arrays = Arrays(
        np.concatenate([own[:45], fresh]), np.concatenate([np.arange(45) % 3, labels]), own[45:], np.arange(45) % 3
    )
    write_store(place / "mixed", arrays, name="mixed", class_names=ClassNames(NAMES), source="made")
    found = headstart.evaluate_on(place / "run", place / "mixed", out=place / "there", progress=False)
    assert found.figures["n"] == 30
    assert found.left_out == {"images of the run itself": 90}
    assert (place / "there" / "evaluation.json").is_file()


def test_what_makes_no_sense_is_refused(place, capsys, monkeypatch):
    run = str(place / "run")
    assert main(["evaluate", run, "--on", str(place / "own"), "-q"]) == 2
    assert "trained on" in capsys.readouterr().err
    store(place / "strange", ("north", "south"), seed=2)
    assert main(["evaluate", run, "--on", str(place / "strange"), "-q"]) == 2
    told = capsys.readouterr().err
    assert "north" in told
    assert "red" in told
    assert not (place / "run" / "on-strange").exists()
    assert main(["evaluate", run, "--on", str(place / "strange"), "--saliency", "-q"]) == 2
    assert main(["evaluate", run, "--out", "x", "--on-bad", "skip", "-q"]) == 2
    assert "--on-bad, --out: only for other data" in capsys.readouterr().err
    assert main(["evaluate", run, str(place / "strange"), "-q"]) == 2
    assert f"headstart evaluate {run} --on {place / 'strange'}" in capsys.readouterr().err
    images, labels = coloured(90, NAMES, seed=0)
    half = Arrays(images[:20], labels[:20], images[20:30], labels[20:30])
    write_store(place / "seen", half, name="seen", class_names=ClassNames(NAMES), source="made")
    assert main(["evaluate", run, "--on", str(place / "seen"), "-q"]) == 2
    assert "the run has seen all 30 of them" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"data\.limit, data\.test_fraction, seed would change nothing"):
        headstart.evaluate_on(run, place / "strange", overrides={"data.limit": 5, "data.test_fraction": 0.5, "seed": 1})
    monkeypatch.setattr("headstart.workflows.elsewhere.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RunError, match="something else"):
        headstart.evaluate_on(run, place / "strange", out=place)
    (place / "images" / "red").mkdir(parents=True)
    with pytest.raises(RunError, match="read as classes"):
        headstart.evaluate_on(run, place / "images", out=place / "images" / "found")


def test_after_a_full_disk_the_same_command_begins_again(place, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store(place / "later", NAMES, seed=6, n=12)
    words = ["evaluate", str(place / "run"), "--on", str(place / "later"), "-q"]
    with monkeypatch.context() as patch:
        patch.setattr("headstart.runs.run.Run.write_predictions", full)
        assert main(words) == 1
    assert "No space left on device. Free some space" in capsys.readouterr().err
    assert main(words) == 0
    store(place / "site-b" / "later", NAMES, seed=7, n=12)
    assert main(["evaluate", str(place / "run"), "--on", str(place / "site-b" / "later"), "-q"]) == 2
    assert f"other data, {place / 'later'}, which would be lost" in capsys.readouterr().err


def test_the_lines_name_drift_and_calibration(place, capsys):
    store(place / "noisy", NAMES, seed=3, noise=56)
    assert main(["evaluate", str(place / "run"), "--on", str(place / "noisy"), "-q"]) == 0
    told = capsys.readouterr().out
    for word in ("Accuracy", "Drift", "Calibration", "Marked"):
        assert word in told


def test_the_interval_of_a_difference_covers_it():
    found = _difference((80, 100), (90, 100))
    assert found["difference"] == -0.1
    assert found["ci95"] == pytest.approx([-0.198, -0.001], abs=0.003)  # Newcombe's method 10


@pytest.mark.parametrize(("confident", "holds"), [(0.8, True), (0.97, False)])
def test_calibration_holds_until_confidence_leaves_accuracy(confident, holds):
    generator = np.random.default_rng(0)
    right = generator.uniform(size=2000) < 0.8
    logits = np.stack([np.where(right, 2.0, -2.0), np.zeros(2000)], 1).astype(np.float32)
    val = SINGLE_LABEL.measure(logits, np.zeros(2000, np.int64), names=("a", "b"))
    found = _calibration(np.full(2000, confident), right, val)
    assert found["holds"] is holds
    low, high = found["overconfidence_ci95"]
    assert low <= found["overconfidence"] <= high


def test_a_few_images_that_are_all_right_take_nothing_from_a_calibration():
    few, confident = np.ones(10, np.bool_), np.full(10, 0.95)
    found = _calibration(confident, few, None)
    assert found["holds"]
    assert found["overconfidence_ci95"] == pytest.approx([-0.05, 0.95 - 0.722], abs=1e-3)  # Wilson's for 10 of 10
    assert not _calibration(confident, ~few, None)["holds"]


def test_a_class_is_found_again_in_either_form_that_unicode_has_for_it():
    composed, apart = "caf\u00e9", "cafe\u0301"
    source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ClassNames((apart, "tea")))
    split = Subset.whole(source, "test")
    dataset = Dataset("cups", split, SealedTest(split), source.classes, "ab" * 32, "a test")
    chosen = choose_images(dataset, ClassNames(("tea", composed)), None)
    assert chosen.labels.tolist() == [1, 0, 1, 0] * 2
    assert choose_images(dataset, ClassNames((composed, apart)), None).labels.tolist() == [1, 1] * 2


def photograph(folder, *counts, seed=0):
    """Image files of some classes: pairs of a class folder and the number of its images."""
    for name, count in counts:
        images, _ = coloured(count, (name.rpartition("/")[2],), seed=seed)
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).resize((20, 24)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "counts",
    [
        (("test/red", 4), ("test/blue", 3)),
        (("red", 6), ("green", 1)),
        (("red", 5),),
        (("train/red", 2), ("train/blue", 1), ("val/red", 1), ("val/blue", 1)),
    ],
    ids=["a test folder alone", "a class of one image", "one class", "no test folder"],
)
def test_every_image_of_a_folder_is_measured_whatever_its_layout(place, tmp_path, counts, own_home):
    photos = photograph(tmp_path / "photos", *counts)
    found = headstart.evaluate_on(place / "run", photos, out=tmp_path / "found", progress=False)
    assert found.figures["n"] == sum(count for _, count in counts)
    assert set(found.missing_classes) == set(NAMES) - {name.rpartition("/")[2] for name, _ in counts}


def test_a_table_with_columns_of_its_own_is_measured_on(place, tmp_path, own_home, capsys):
    photograph(tmp_path / "photos", ("red", 3), ("blue", 1))
    lines = [f"photos/{name}/{i}.png,{name}" for name, count in (("red", 3), ("blue", 1)) for i in range(count)]
    (tmp_path / "new.csv").write_text("\n".join(["picture,kind", *lines, "photos/gone.png,red"]))
    words = [
        "evaluate",
        str(place / "run"),
        "--on",
        str(tmp_path / "new.csv"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    words += ["--image-column", "picture", "--label-column", "kind"]
    assert main([*words, "--on-bad", "fail"]) == 2
    assert "1 file that can't be found" in json.loads(capsys.readouterr().out)["error"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["n"] == 4


def test_the_page_tells_what_moved_and_links_to_the_mistakes(place, tmp_path, own_home):
    photos = photograph(place / "shifted", ("red", 4), ("green", 2))
    (photos / "green" / "0.png").replace(photos / "red" / "a green one.png")
    found = headstart.evaluate_on(place / "run", photos, progress=False)
    page = (place / "run" / "on-shifted" / "report.html").read_text()
    for word in ("Balanced accuracy", "since validation", "Calibration", "Confusions", "no image of blue"):
        assert word in page
    assert f"{found.figures['accuracy']:.2%}" in page
    assert "red predicted as green" in re.sub(r"<[^>]+>|\s+", " ", page).replace("  ", " ")
    # Among the examples of confusions and among the mistakes.
    assert page.count('href="../../shifted/red/a%20green%20one.png"') == 2
    assert str(place) not in page
    arrays = place / "run" / "on-other"
    store(place / "other-again", ("blue", "red", "white"), seed=1)
    headstart.evaluate_on(place / "run", place / "other-again", out=arrays, progress=False)
    assert "line " in (arrays / "report.html").read_text()
