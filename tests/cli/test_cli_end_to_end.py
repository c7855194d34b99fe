"""The whole story on real images: train, evaluate and predict, each in a process of its own, then bad input."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import warm
from headstart.cli import main

SAMPLE = Path(__file__).parents[1] / "data" / "cifar10-sample"


def headstart(*words, cwd, status=0):
    done = warm.headstart(*words, cwd=cwd, HEADSTART_HOME=str(cwd / "cache"), HF_HUB_OFFLINE="1").wait()
    assert done.returncode == status, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("story")


@pytest.fixture(scope="module")
def trained(place):
    words = [
        "train",
        SAMPLE,
        "--recipe",
        "quickstart",
        "--limit",
        300,
        "--out",
        "runs/story",
        "--threads",
        "1",
        "--json",
    ]
    words += ["--set", "probe.size=64", "--set", "finetune.schedule=[{epochs: 1, size: 64}]"]
    words += ["--set", "evaluation.size=64", "--set", "hardware.precision=fp32"]
    words += ["--set", "hardware.memory_format=contiguous"]
    return headstart(*words, cwd=place)


def test_train_answers_with_the_metrics_it_wrote(trained, place):
    metrics = json.loads(trained.stdout)
    run = place / "runs" / "story"
    assert metrics == json.loads((run / "metrics.json").read_text())
    names = {path.name for path in run.iterdir()}
    assert names >= {"recipe.yaml", "history.csv", "metrics.json", "predictions.csv", "report.html", "model"}
    assert names >= {"environment.json", "split_manifest.csv", "training.json"}
    test = metrics["test"]
    low, high = test["accuracy_ci95"]
    # Ten classes: a network that had learnt nothing, or read its pictures wrongly, would be near 0.1.
    assert 0.4 < low < test["accuracy"] < high < 1
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == test["n"]
    hits = sum(row["label"] == row["predicted"] for row in rows)
    assert hits / len(rows) == pytest.approx(test["accuracy"])
    assert metrics["total_seconds"] > metrics["train_seconds"] > 0


def test_a_taken_folder_is_refused_with_the_remedy(trained, place, capsys):
    assert main(["train", str(SAMPLE), "--out", str(place / "runs" / "story")]) == 2
    message = capsys.readouterr().err
    assert f"headstart evaluate {place / 'runs' / 'story'}" in message
    assert "--out" in message


def test_a_finished_run_is_not_resumed(trained, place, capsys):
    assert main(["train", "--resume", str(place / "runs" / "story")]) == 2
    assert "complete" in capsys.readouterr().err


def test_evaluate_gives_the_same_figures_and_logs_the_opening(trained, place):
    run = place / "runs" / "story"
    before = json.loads((run / "metrics.json").read_text())
    again = json.loads(headstart("evaluate", "runs/story", "--json", "--threads", "1", cwd=place).stdout)
    assert again["test"] == before["test"]
    assert again["temperature"] == before["temperature"]
    openings = json.loads((run / "environment.json").read_text())["test_openings"]
    assert "opened 2 times, each time for the same weights" in " ".join((run / "report.html").read_text().split())
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert [opening["weights_sha256"] for opening in openings] == [weights] * 2
    assert [opening["command"].split()[:2] for opening in openings] == [
        ["headstart", "train"],
        ["headstart", "evaluate"],
    ]


def test_evaluate_explains_mistakes_and_measures_spoilt_pictures_when_asked(trained, place):
    run = place / "runs" / "asked-more"
    shutil.copytree(place / "runs" / "story", run)
    words = ["evaluate", "runs/asked-more", "--saliency", "--corruptions", "--corruption-images", 10, "--threads", 1]
    metrics = json.loads(headstart(*words, "--json", cwd=place).stdout)
    before = json.loads((place / "runs" / "story" / "metrics.json").read_text())
    assert metrics["test"] == before["test"]
    spoilt, figures = metrics["corruptions"], json.loads((run / "corruptions.json").read_text())
    assert spoilt.items() <= figures.items()
    assert spoilt["n"] == 10
    assert 0 < spoilt["accuracy"] <= 1
    assert len(figures["corruptions"]) == 11
    page = (run / "report.html").read_text()
    assert "Where the model looked" in page
    assert "Corrupted images" in page
    last = json.loads((run / "environment.json").read_text())["test_openings"][-1]
    assert "--corruptions" in last["command"]
    # Measured again without them, they stay.
    again = json.loads(headstart("evaluate", "runs/asked-more", "--threads", 1, "--json", cwd=place).stdout)
    assert again["corruptions"] == spoilt
    assert "Where the model looked" in (run / "report.html").read_text()


def test_predict_names_files_as_the_evaluation_did(trained, place):
    """Pictures written out as PNG and read back get the label and probability that predictions.csv has."""
    photos = place / "photos"
    photos.mkdir()
    with (place / "runs" / "story" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    images = np.load(SAMPLE / "test_images.npy")
    for row in rows:
        Image.fromarray(images[int(row["row"])]).save(photos / f"{int(row['row']):05d}.png")
    (photos / "zz-not-a-picture.png").write_text("text")
    done = headstart("predict", "runs/story", "photos", "--json", "--top", 3, cwd=place, status=1)
    *found, bad = json.loads(done.stdout)["predictions"]
    assert set(bad) == {"file", "error"}
    assert "zz-not-a-picture.png" in done.stderr
    assert [prediction["label"] for prediction in found] == [row["predicted"] for row in rows]
    np.testing.assert_allclose(
        [prediction["probability"] for prediction in found], [float(row["probability"]) for row in rows], atol=1e-3
    )
    assert {len(prediction["top"]) for prediction in found} == {3}


def test_the_model_works_away_from_its_run(trained, place, tmp_path, capsys):
    shutil.copytree(place / "runs" / "story" / "model", tmp_path / "elsewhere")
    Image.fromarray(np.load(SAMPLE / "test_images.npy")[0]).save(tmp_path / "one.png")
    assert main(["predict", str(tmp_path / "elsewhere"), str(tmp_path / "one.png")]) == 0
    line = capsys.readouterr().out
    file, label, probability, *_ = line.rstrip("\n").split("\t")
    assert file == str(tmp_path / "one.png")
    assert label in json.loads((tmp_path / "elsewhere" / "config.json").read_text())["label_names"]
    assert 0 < float(probability) <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", SAMPLE, "--limit", "100000"], "training images"),
        (["train", SAMPLE, "--limit", "5"], "No image of"),
        (["train", "cifar11", "--out", "x"], "Did you mean 'cifar10'?"),
        (["train", SAMPLE, "--out", "x", "--backbone", "resnet5", "--threads", "1"], "resnet5"),
        (["train", SAMPLE, "--out", "x", "--weights", "nowhere.pth"], "nowhere.pth"),
        (
            ["train", SAMPLE, "--recipe", "quickstart", "--out", "x", "--set", "finetune.batch_size=1000"],
            "Allowed: 1 to 450",
        ),
        (
            ["train", SAMPLE, "--recipe", "quickstart", "--out", "x", "--set", "finetune.freeze.stages=9"],
            "has 7 stages",
        ),
        (
            ["train", SAMPLE, "--recipe", "quickstart", "--out", "x", "--set", "finetune.class_weights={lion: 2}"],
            "'lion'",
        ),
        (["train", SAMPLE, "--recipe", "quickstart", "--out", "/proc/x"], "/proc"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", SAMPLE, "--out", "x", "--device", "cuda:99"], "cuda"),
        (["evaluate", "photos-only"], "photos-only"),
        (["evaluate", "photos-only", "--corruption-images", "5"], "--corruptions"),
        (["predict", "photos-only", "one.png"], "photos-only"),
    ],
    ids=str,
)
def test_bad_input_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("photos-only").mkdir()
    Image.new("RGB", (4, 4)).save("one.png")
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"photos-only", "one.png", "cache"}
