"""A folder of images, from files to a measured classifier, through the command."""

import base64
import csv
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from headstart import api
from headstart.cli import main
from headstart.deployment.verify import verify
from headstart.recipe.schema import load_recipe

TINY = ["--recipe", "quickstart", "--backbone", "test_resnet", "--weights", "none", "--threads", "1"]
TINY += ["--json", "--quiet"]
SETTINGS = ["probe=null", "finetune.schedule=[{epochs: 1, size: 32}]", "evaluation.size=32", "finetune.batch_size=8"]
SETTINGS += ["hardware.precision=fp32", "hardware.memory_format=contiguous"]


def arguments(*words):
    return ["train", *map(str, words), *TINY, *(part for setting in SETTINGS for part in ("--set", setting))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 30))):
        for i in range(20):
            path = place / "photos" / name / f"{i}.{'jpg' if i % 2 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.array(colour) + random.integers(-25, 25, (40 + i, 50, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (place / "photos" / "red" / "broken.jpg").write_bytes((place / "photos" / "red" / "1.jpg").read_bytes()[:500])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_HOME", str(place / "home"))
        yield place


@pytest.fixture(scope="module")
def run(place):
    assert main(arguments(place / "photos", "--out", place / "run", "--on-bad", "skip")) == 0
    return place / "run"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_among_the_images_are_refused(place, run, capsys):
    inside = place / "photos" / "results"
    for words in (arguments(place / "photos", "--out", inside), ["export", str(run), "--out", str(inside), "--json"]):
        assert main(words) == 2
        assert "Name a folder outside of it with --out" in json.loads(capsys.readouterr().out)["error"]
        assert not inside.exists()


def test_bad_files_stop_everything_before_anything_is_written(place, capsys):
    words = arguments(place / "photos", "--out", place / "none")
    words.remove("--quiet")
    assert main(words) == 2
    told = capsys.readouterr()
    assert "red/broken.jpg" in json.loads(told.out)["error"]
    assert "Drew" not in told.err
    assert not (place / "none").exists()


def test_the_run_accounts_for_every_file(run):
    ledger = {row["path"]: row for row in table(run / "files.csv")}
    assert len(ledger) == 41
    assert ledger["red/broken.jpg"]["status"] == "refused"
    manifest = {row["sha256"]: row["split"] for row in table(run / "split_manifest.csv")}
    assert {row["sha256"]: row["split"] for row in ledger.values() if row["split"]} == manifest
    predictions = table(run / "predictions.csv")
    assert {row["file"] for row in predictions} == {row["path"] for row in ledger.values() if row["split"] == "test"}
    data = json.loads((run / "environment.json").read_text())["data"]
    assert data["files"] == {"used": 40, "refused": 1}
    assert data["n_train"] + data["n_val"] + data["n_test"] == 40


def test_the_page_shows_images_as_fed_and_the_card_the_licences(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    fed = page.partition("As the network sees them")[2].partition("</ul>")[0]
    shown = re.findall(r'base64,([^"]+)" alt="Training image, labeled (\w+)"', fed)
    assert [label for _, label in shown[:4]] == ["green", "red", "green", "red"]
    size = json.loads((run / "model" / "config.json").read_text())["pretrained_cfg"]["input_size"][1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][0]))), np.float64)
    assert pixels.shape == (min(size, 96), min(size, 96), 3)
    assert abs(pixels.mean(axis=(0, 1)) - (30, 200, 30)).max() < 5
    card = (run / "model" / "README.md").read_text()
    assert "| images | not stated |" in card
    assert "| images: train |" in card


def test_the_run_is_measured_again_alike(run, capsys):
    before = json.loads((run / "metrics.json").read_text())["test"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == before


def test_a_run_of_photographs_is_exported_as_it_was_measured(place, run, capsys, monkeypatch):
    monkeypatch.setattr("headstart.evaluation.certify._SECONDS", 0.01)
    out, before = place / "export", json.loads((run / "metrics.json").read_text())["test"]
    capsys.readouterr()
    assert main(["export", str(run), "--out", str(out), "--json", "--quiet", "--threads", "1"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert certificate["verdict"] == "identical"
    assert certificate["test"]["n"] == before["n"]
    assert certificate["test"]["export"]["accuracy"] == before["accuracy"]
    assert certificate["golden"]["images_are"] == "validation images"
    assert {image.square_steps for image in verify(out, threads=1).images} == {0}
    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in files if str(place).encode() in path.read_bytes()] == []


def test_a_run_knows_renamed_files_and_leaves_added_ones_out(place, run, capsys):
    before = json.loads((run / "metrics.json").read_text())["test"]
    names = [place / "photos" / "red" / name for name in ("0.png", "zz.png", "added.png")]
    names[0].rename(names[1])
    Image.new("RGB", (50, 50), (200, 40, 50)).save(names[2])
    capsys.readouterr()
    try:
        assert main(["evaluate", str(run), "--json", "--threads", "1"]) == 0
    finally:
        names[1].rename(names[0])
        names[2].unlink()
    told = capsys.readouterr()
    assert json.loads(told.out)["test"]["accuracy"] == before["accuracy"]
    assert "red/added.png" in told.err
    assert "broken" not in told.err


def test_a_stopped_run_is_resumed(place, run, capsys):
    for name in ("training.json", "metrics.json"):
        (run / name).rename(run / f"{name}.away")
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--json", "--threads", "1"]) == 0
    earlier = json.loads((run / "metrics.json.away").read_text())["test"]
    assert json.loads(capsys.readouterr().out)["test"] == earlier


def test_a_run_goes_on_bit_for_bit_after_files_were_renamed_and_added(place, run, capsys):
    stopped, photos = place / "stopped", place / "photos"
    shutil.copytree(run, stopped)
    for name in ("training.json", "metrics.json", "predictions.csv", "history.csv", "report.html"):
        (stopped / name).unlink()
    shutil.rmtree(stopped / "model")
    moves = [("red/0.png", "red/zz.png"), ("green/4.png", "green/000.png"), ("green/7.jpg", "green/A.jpg")]
    for one, other in moves:
        (photos / one).rename(photos / other)
    (photos / "blue").mkdir()
    Image.new("RGB", (40, 40), "blue").save(photos / "blue" / "new.png")
    capsys.readouterr()
    try:
        assert main(["train", "--resume", str(stopped), "--threads", "1"]) == 0
        assert "blue/new.png" in capsys.readouterr().err
        kept = photos / "green" / "A.jpg"
        kept.rename(place / "away.jpg")
        try:
            (stopped / "training.json").unlink()
            assert main(["train", "--resume", str(stopped), "--threads", "1"]) == 2
        finally:
            (place / "away.jpg").rename(kept)
        assert "1 vanished" in capsys.readouterr().err
    finally:
        shutil.rmtree(photos / "blue")
        for one, other in moves:
            (photos / other).rename(photos / one)
    for name in ("model/model.safetensors", "split_manifest.csv"):
        assert (stopped / name).read_bytes() == (run / name).read_bytes()


def test_a_run_does_not_go_on_with_other_files(place, run, capsys):
    path = place / "photos" / "red" / "0.png"
    kept, time = path.read_bytes(), path.stat().st_mtime
    Image.new("RGB", (40, 40), "blue").save(path)
    try:
        assert main(["evaluate", str(run), "--json"]) == 2
    finally:
        path.write_bytes(kept)
        os.utime(path, (time, time))
    assert "split manifest" in json.loads(capsys.readouterr().out)["error"]


def test_a_table_with_corrected_labels_is_trained_on(place, capsys):
    names = [f"{name}/{i}.{'jpg' if i % 2 else 'png'}" for name in ("red", "green") for i in range(20)]
    lines = [f"{name},{name.partition('/')[0]},{i},train" for i, name in enumerate(names)]
    (place / "photos" / "table.csv").write_text("\n".join(["file_name,kind,group,split", *lines]))
    (place / "labels.csv").write_text("file_name,label\nred/1.jpg,drop\nred/2.png,green\n")
    words = [place / "photos" / "table.csv", "--label-column", "kind", "--labels-from", place / "labels.csv"]
    assert main(arguments(*words, "--out", place / "tabled")) == 0
    ledger = {row["path"]: row for row in table(place / "tabled" / "files.csv")}
    assert ledger["red/1.jpg"]["status"] == "ignored"
    assert (ledger["red/2.png"]["label"], ledger["red/2.png"]["group"]) == ("green", "2")
    tested = {row["file"] for row in table(place / "tabled" / "predictions.csv")}
    assert tested == {name for name, row in ledger.items() if row["split"] == "test"}
    capsys.readouterr()
    assert main(["evaluate", str(place / "tabled"), "--json", "--threads", "1"]) == 0, "they came in a split 'train'"
    assert json.loads(capsys.readouterr().out)["test"]["n"] == len(tested) > 0
    recipe = (place / "tabled" / "recipe.yaml").read_text()
    assert f"labels_from: {place / 'labels.csv'}" in recipe


def test_an_option_is_not_given_twice(place, capsys):
    assert main(arguments(place / "photos", "--on-bad", "skip", "--set", "data.on_bad=fail")) == 2
    assert "data.on_bad is given twice" in json.loads(capsys.readouterr().out)["error"]


def test_a_folder_can_be_explored_and_checked(place, run, capsys):
    (place / "photos" / "red" / "broken.jpg").unlink()
    settings = ["finetune.batch_size=8", f"data.name={place / 'photos'}"]
    found = api.check(load_recipe("quickstart", settings), progress=False)
    assert (found.name, found.classes) == ("photos", ("green", "red"))
    assert found.n_train + found.n_val + found.n_test == 40
    assert main(["explore", str(place / "photos"), "--out", str(place / "page"), "--json"]) == 0
    assert (place / "page" / "explore.html").is_file()
