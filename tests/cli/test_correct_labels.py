"""From suspected label errors to a comparison: what exploring finds is corrected and trained on, and that helps."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from headstart.cli import main
from headstart.workflows.explore import FEATURE_SIZE

COLOURS = {"red": (200, 80, 80), "green": (80, 200, 80)}
FLIPPED = 12
TINY = ["--recipe", "quickstart", "--set", "finetune=null", "--set", "probe.size=32", "--set", "evaluation.size=32"]
# Timing what is fastest would take longer than the training.
TINY += ["--set", "hardware.precision=fp32", "--set", "hardware.memory_format=contiguous"]


def draw(root):
    """Fill a folder with images of two colours, a fifth of those to train on in the folder of the other one."""
    generator = np.random.default_rng(0)
    flipped = set()
    for split, count in (("train", 30), ("test", 40)):
        for name, other in (("red", "green"), ("green", "red")):
            for i in range(count):
                wrong = split == "train" and i < FLIPPED // 2
                path = root / split / (other if wrong else name) / f"{name}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.array(COLOURS[name]) + generator.normal(0, 60, (32, 32, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
                flipped |= {f"{split}/{path.parent.name}/{path.name}"} if wrong else set()
    return flipped


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_suspected_errors_are_corrected_trained_on_and_compared(tmp_path, own_home, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headstart.workflows.explore.LABEL_SIZE", FEATURE_SIZE)
    flipped = draw(tmp_path / "photos")

    def headstart(*words):
        capsys.readouterr()
        assert main([*words, "--json", "--quiet"]) == 0
        return json.loads(capsys.readouterr().out)

    found = headstart("explore", "photos", "--labels")
    rows = table(tmp_path / "explore-photos" / "label_errors.csv")
    suspects = [row for row in rows if row["suspected"] == "True"]
    assert len(suspects) == found["label_errors"]["suspected"]
    corrections = [f"{row['file_name']},{row['suggested']}\n" for row in suspects]
    # As the page on which labels are reviewed saves them.
    (tmp_path / "labels.csv").write_text("file_name,label\n" + "".join(corrections))
    right = {row["file_name"] for row in suspects} & flipped
    assert len(right) > len(flipped) * 0.8

    before = headstart("train", "photos", *TINY, "--out", "before")
    after = headstart("train", "photos", *TINY, "--labels-from", "labels.csv", "--out", "after")
    one, other = (
        {row["path"]: row["label"] for row in table(tmp_path / run / "files.csv")} for run in ("before", "after")
    )
    assert {path for path in one if one[path] != other[path]} == {row["file_name"] for row in suspects}
    (pair,) = headstart("compare", "before", "after")["pairs"]
    assert "data.labels_from" in pair["settings"]
    change = pair["accuracy_change"]
    assert change["value"] == pytest.approx(after["test"]["accuracy"] - before["test"]["accuracy"], abs=1e-6)
    assert change["ci95"][0] > 0, "training on corrected labels is better, and that is no chance"
