"""``headstart compare`` on small run folders: what it answers, what it writes, and everything that it refuses."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import headstart
from headstart.cli import main
from headstart.contracts import Predictions
from headstart.data.splits import Manifest, ManifestRow
from headstart.runs.predictions import TestPredictions
from headstart.runs.run import Run
from headstart.tasks.single_label import SINGLE_LABEL

MACHINE = {"cpu": "a processor", "cores": 2}
FACTS = {
    "backbone": "tf_efficientnet_lite0.in1k",
    "peak_rss_mb": 1500.0,
    "device": "cpu",
    "train_images_per_second": 100.0,
    "best_epoch": 1,
}


class Runs:
    """Makes run folders as training and evaluation leave them, on the sample's 100 test images."""

    def __init__(self, place, sample, sample_dir):
        split = sample.sealed_test.open()
        self.place, self.names, self.labels = place, split.class_names, np.array(split.labels)
        self.images, self.hashes, self.data = split.source.array, list(split.identities), str(sample_dir)

    def make(self, name, *, right, keep=slice(None), labels=None, files=None, **facts):
        """Write a run that gets the images right whose row is in ``right``; ``keep`` are those it is tested on."""
        seed, hardware, seconds, precision = (
            facts.pop(key, default)
            for key, default in (("seed", 0), ("hardware", MACHINE), ("seconds", 100.0), ("precision", "fp32"))
        )
        folder = self.place / name
        folder.mkdir(parents=True)
        labels = (self.labels if labels is None else labels)[keep]
        rows, hashes = np.arange(100)[keep], list(np.array(self.hashes)[keep])
        said = np.where(np.isin(rows, right), labels, (labels + 1) % len(self.names))
        logits = np.random.default_rng(len(name)).normal(size=(len(rows), len(self.names))).astype(np.float32)
        logits[np.arange(len(rows)), said] = 5.0 + rows / 100
        test = SINGLE_LABEL.measure(logits, labels, names=self.names.names)
        predictions = Predictions(SINGLE_LABEL.probabilities(logits), self.names)
        Run(folder).write_predictions(TestPredictions(rows, hashes, labels, predictions, files))
        lines = [
            ManifestRow(h, "test", self.names[int(label)], int(r))
            for h, label, r in zip(hashes, labels, rows, strict=True)
        ]
        Manifest((ManifestRow("0" * 64, "train", self.names[0], 0), *lines)).write(folder / "split_manifest.csv")
        metrics = FACTS | {"val": test.to_dict(), "test": test.to_dict(), "temperature": 1.0, "precision": precision}
        metrics |= {"train_seconds": seconds, "total_seconds": 1.5 * seconds, "seed": seed}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "training.json").write_text("{}")
        environment = {
            "hardware": hardware,
            "threads": 2,
            "data": {"name": self.data, "sha256": "ab" * 32, "n_train": 450},
        }
        (folder / "environment.json").write_text(json.dumps(environment))
        settings = {
            "description": name,
            "seed": seed,
            "data": {"name": self.data},
            "evaluation": {"size": 64},
            **facts,
        }
        (folder / "recipe.yaml").write_text(json.dumps(settings))
        return folder


@pytest.fixture
def runs(tmp_path, sample, sample_dir):
    return Runs(tmp_path, sample, sample_dir)


def call(capsys, *words):
    status = main(["compare", *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err


def compare(capsys, *words):
    status, out, err = call(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


def refused(capsys, *words):
    """Return the message of a refusal, which must be the same with and without --json."""
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, "")
    status, out, _ = call(capsys, *words, "--json")
    assert status == 2
    assert json.loads(out)["error"] == err.strip()
    return err


def rewrite(path, change):
    path.write_text(change(path.read_text()))


def test_a_better_run_is_called_better(runs, capsys):
    before = runs.make("before", right=range(60), layers=2)
    after = runs.make("after", right=range(2, 90), layers=4, seconds=300.0)
    found = compare(capsys, before, after)
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("before", "after", "second")
    assert pair["accuracy_change"]["value"] == 0.28
    low, high = pair["accuracy_change"]["ci95"]
    assert 0.15 < low < 0.28 < high < 0.4
    counts = {"both_right": 58, "first_only": 2, "second_only": 30, "both_wrong": 10}
    assert {key: pair["mcnemar"][key] for key in counts} == counts
    assert pair["mcnemar"]["p"] == pair["mcnemar"]["p_corrected"] < 1e-6
    assert pair["first_only"]["rows"] == [0, 1]
    assert pair["second_only"]["rows"] == list(range(60, 90))
    assert len(pair["second_only"]["examples"]) == 12
    assert pair["settings"] == {"layers": [2, 4]}
    assert pair["train_seconds_ratio"] == 3.0
    assert found["verdict"] == pair["sentence"]
    assert "after is better than before by 28.00 points" in found["verdict"]
    assert "in 3.0 times the training time" in found["verdict"]
    assert found["same_recipe"] == []


def test_the_json_contract(runs, capsys):
    found = compare(capsys, runs.make("a", right=range(70)), runs.make("b", right=range(5, 75), width=2))
    assert (found["n"], found["page"], len(found["classes"])) == (100, None, 10)
    assert found["method"]["correction"] is None
    run = found["runs"][0]
    figures = {"name", "path", "accuracy", "accuracy_ci95", "macro_f1", "ece", "ece_calibrated", "train_seconds"}
    assert set(run) >= figures | {"total_seconds", "peak_rss_mb", "backbone", "size", "seed", "train_images"}
    assert (run["name"], run["accuracy"], run["size"], run["train_images"]) == ("a", 0.7, 64, 450)
    (pair,) = found["pairs"]
    assert {"accuracy_change", "macro_f1_change", "agreement", "kappa", "per_class", "settings"} <= set(pair)
    assert list(pair["per_class"]) == found["classes"]
    assert sum(entry["support"] for entry in pair["per_class"].values()) == 100
    example = pair["first_only"]["examples"][0]
    assert set(example) == {"row", "sha256", "label", "right_probability", "wrong", "wrong_probability"}
    assert example["sha256"] == runs.hashes[example["row"]]


def test_what_the_images_cannot_tell_is_said_so(runs, capsys):
    found = compare(capsys, runs.make("a", right=range(70)), runs.make("b", right=range(5, 77), width=2))
    assert found["pairs"][0]["verdict"] == "noise"
    assert found["pairs"][0]["conclusion"] == "undecided"
    assert "noise" not in found["verdict"]
    assert re.search(r"anything from -\d+\.\d\d to \+\d+\.\d\d points", found["verdict"])


def test_a_run_made_before_a_key_existed_has_its_default(runs, capsys):
    old = runs.make("old", right=range(60))
    new = runs.make("new", right=range(90), seed=1, interpolation="weights")
    found = compare(capsys, old, new)
    assert found["pairs"][0]["verdict"] == "luck of the seed"
    assert list(found["pairs"][0]["settings"]) == ["seed"]


def test_a_clear_gap_between_seeds_is_not_a_better_recipe(runs, capsys):
    found = compare(capsys, runs.make("s0", right=range(60)), runs.make("s1", right=range(90), seed=1))
    assert found["pairs"][0]["verdict"] == "luck of the seed"
    assert found["same_recipe"] == [{"runs": ["s0", "s1"], "accuracy": {"min": 0.6, "median": 0.75, "max": 0.9}}]


def test_runs_of_another_precision_are_not_of_one_recipe(runs, capsys):
    folders = [
        runs.make("a", right=range(60), precision="fp32"),
        runs.make("b", right=range(90), precision="bf16"),
    ]
    found = compare(capsys, *folders)
    assert found["pairs"][0]["verdict"] == "second"
    assert found["pairs"][0]["settings"]["precision"] == ["fp32", "bf16"]
    assert found["same_recipe"] == []


def test_three_runs_are_corrected_for_there_being_three_pairs(runs, capsys):
    folders = [runs.make("a", right=range(60)), runs.make("b", right=range(10, 80), w=1)]
    folders += [runs.make("c", right=range(12, 81), w=2)]
    found = compare(capsys, *folders)
    assert found["method"]["correction"] == "Holm"
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    alone, corrected = ([pair["mcnemar"][key] for pair in found["pairs"]] for key in ("p", "p_corrected"))
    assert min(alone) * 3 == pytest.approx(min(corrected))
    assert all(after >= before for before, after in zip(alone, corrected, strict=True))
    assert found["verdict"].startswith("b has the highest accuracy, 70.00%")
    assert "can't tell" in found["verdict"]


def test_tables_without_json(runs, capsys):
    status, out, err = call(capsys, runs.make("a", right=range(70)), runs.make("b", right=range(5, 75), width=2))
    assert (status, err) == (0, "")
    assert re.search(r"^a +70\.00% +60\.\d\d% to 78\.\d\d% ", out, re.M)
    assert "a -> b" in out
    assert "undecided" in out
    assert "Traceback" not in out


def test_runs_of_one_name_are_told_apart(runs, capsys):
    folders = [runs.make("one/run", right=range(70)), runs.make("two/run", right=range(60))]
    assert [run["name"] for run in compare(capsys, *folders)["runs"]] == ["one/run", "two/run"]


def test_a_model_folder_stands_for_its_run(runs, capsys):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(60))
    (run / "model").mkdir()
    assert compare(capsys, run / "model", other)["runs"][0]["name"] == "a"


def test_images_in_another_order_are_matched_by_their_content(runs, capsys):
    straight, turned = runs.make("a", right=range(70)), runs.make("b", right=range(60))
    expected = compare(capsys, straight, turned)["pairs"]
    header, *lines = (turned / "predictions.csv").read_text().splitlines()
    renumbered = [re.sub(r"^\d+", str(99 - i), line) for i, line in enumerate(lines)]
    (turned / "predictions.csv").write_text("\n".join([header, *renumbered[::-1]]) + "\n")
    assert compare(capsys, straight, turned)["pairs"] == expected


def test_times_of_different_machines_are_not_set_in_relation(runs, capsys):
    folders = [runs.make("a", right=range(40)), runs.make("b", right=range(90), w=1, hardware={"cpu": "another"})]
    found = compare(capsys, *folders)
    assert found["same_machine"] is False
    assert found["pairs"][0]["train_seconds_ratio"] is None
    assert "training time" not in found["verdict"]
    assert "can't be compared" in call(capsys, *folders)[1]


def test_python_gives_the_same(runs, capsys):
    folders = [runs.make("a", right=range(70)), runs.make("b", right=range(60))]
    assert headstart.compare([str(folder) for folder in folders]) == compare(capsys, *folders)


# The page


def test_the_page_shows_the_very_pictures(runs, capsys):
    out = runs.place / "new" / "page.html"
    folders = [runs.make("before", right=range(60)), runs.make("after", right=range(2, 90), layers=4)]
    found = compare(capsys, *folders, "--out", out)
    assert found["page"] == str(out)
    page = out.read_text()
    assert "after is better than before" in page
    assert page.count("data:image/png;base64,") == 14, "12 of the 30 gained, and both of the lost"
    assert re.search(r"https?://", page.replace("http://www.w3.org", "")) is None
    assert "<script" not in page
    rows = [int(row) for row in re.findall(r"Test image, row (\d+):", page)]
    assert set(rows) <= {0, 1, *range(60, 90)}
    assert page.count("<svg") == page.count("</svg>") == 2
    assert call(capsys, *folders, "--out", out)[0] == 0, "a comparison's page may be written again"
    assert "5%. An undecided pair" in page


def test_images_in_files_are_called_by_their_paths(runs, capsys):
    files = [f"cats & dogs/{row}.png" for row in range(100)]
    folders = [runs.make(name, right=range(count), files=files) for name, count in (("a", 70), ("b", 60))]
    found = compare(capsys, *folders, "--out", runs.place / "page.html")
    examples = found["pairs"][0]["first_only"]["examples"]
    assert [example["file"] for example in examples] == [files[example["row"]] for example in examples]
    page = (runs.place / "page.html").read_text().replace("<wbr>", "")
    assert all(page.count(f"cats &amp; dogs/{example['row']}.png") == 2 for example in examples)
    assert not re.search(r"\brow \d", page)


def test_the_page_does_without_pictures_and_says_why(runs, capsys):
    folders = [runs.make(name, right=range(right)) for name, right in (("a", 70), ("b", 60))]
    for folder in folders:
        rewrite(folder / "recipe.yaml", lambda text: text.replace(runs.data, "nowhere/at/all"))
    compare(capsys, *folders, "--out", runs.place / "page.html")
    page = (runs.place / "page.html").read_text()
    assert "data:image/png" not in page
    assert "data set is not available here: There is no data set" in page
    assert "nowhere/at/all" in page


def test_a_picture_that_is_another_is_not_shown(runs, capsys):
    folders = [runs.make(name, right=range(right)) for name, right in (("a", 70), ("b", 60))]
    for folder in folders:
        for name in ("predictions.csv", "split_manifest.csv"):
            rewrite(folder / name, lambda text: text.replace(runs.hashes[65], "f" * 64))
    compare(capsys, *folders, "--out", runs.place / "page.html")
    page = (runs.place / "page.html").read_text()
    assert "data:image/png" not in page
    assert "holds other test images" in page


def test_the_page_holds_many_runs_and_odd_names(runs, capsys):
    folders = [runs.make(f"run <{i}> & co", right=range(50 + i), w=i) for i in range(5)]
    compare(capsys, *folders, "--out", runs.place / "page.html")
    page = (runs.place / "page.html").read_text()
    assert "<0>" not in page
    assert "run &lt;0&gt; &amp; co" in page
    assert len(re.findall(r"<h2 id=\"pair-\d+\"", page)) == 4, "with ten pairs, those of the first run in detail"


# Refusals


def test_one_run_is_too_few(runs, capsys):
    assert "needs two runs or more" in refused(capsys)
    assert "needs two runs or more" in refused(capsys, runs.make("a", right=range(70)))


def test_the_same_run_twice(runs, capsys):
    run = runs.make("a", right=range(70))
    assert "are the same run" in refused(capsys, run, runs.place / "." / "a")
    (runs.place / "link").symlink_to(run)
    assert "are the same run" in refused(capsys, run, runs.place / "link")


def test_what_is_no_run(runs, capsys):
    run, folder = runs.make("a", right=range(70)), runs.place / "photos"
    assert f"{folder} does not exist" in refused(capsys, run, folder)
    folder.mkdir()
    assert f"{folder} holds no run" in refused(capsys, run, folder)


def test_a_run_that_is_not_finished(runs, capsys):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(70))
    (other / "metrics.json").unlink()
    (other / "model").mkdir()
    assert f"not measured. Measure it: headstart evaluate {other}" in refused(capsys, run, other)
    (other / "training.json").unlink()
    said = refused(capsys, run, other)
    assert "is not trained to the end" in said
    assert f"headstart train --resume {other}" in said


def test_another_test_split(runs, capsys):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(70), keep=slice(0, 90))
    said = refused(capsys, run, other)
    assert "a and b were measured on different test splits" in said
    assert "10 of the test images of a are not in b" in said
    assert "Train both on the same data" in said


def test_the_same_images_with_other_labels(runs, capsys):
    labels = runs.labels.copy()
    labels[:3] = (labels[:3] + 1) % 10
    said = refused(capsys, runs.make("a", right=range(70)), runs.make("b", right=range(70), labels=labels))
    assert "3 have another label" in said


def test_other_classes(runs, capsys):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(70))
    for name in ("predictions.csv", "split_manifest.csv", "metrics.json"):
        rewrite(other / name, lambda text: text.replace("cat", "lynx"))
    said = refused(capsys, run, other)
    assert "do not name the same classes: only a knows 'cat'; only b knows 'lynx'" in said


def test_figures_of_another_evaluation(runs, capsys):
    run, other, third = (runs.make(name, right=range(n)) for name, n in (("a", 70), ("b", 70), ("c", 60)))
    shutil.copy(third / "predictions.csv", other)
    said = refused(capsys, run, other)
    assert "60 of 100 predictions are right, and the accuracy is 0.7" in said
    assert f"headstart evaluate {other}" in said


def test_predictions_that_are_not_of_the_run_s_test_split(runs, capsys):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(70))
    rewrite(other / "split_manifest.csv", lambda text: text.replace(runs.hashes[4], "e" * 64))
    assert "not for the test images" in refused(capsys, run, other)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv", "split_manifest.csv", "recipe.yaml"])
def test_a_damaged_file_is_named(runs, capsys, name):
    run, other = runs.make("a", right=range(70)), runs.make("b", right=range(70))
    (other / name).write_text("{[")
    assert str(other / name) in refused(capsys, run, other)


def test_places_where_no_page_may_go(runs, capsys):
    folders = [runs.make(name, right=range(70)) for name in ("a", "b")]
    assert "must end in .html" in refused(capsys, *folders, "--out", runs.place / "page.txt")
    (runs.place / "folder.html").mkdir()
    assert "is a folder" in refused(capsys, *folders, "--out", runs.place / "folder.html")
    report = folders[0] / "report.html"
    report.write_text("<!doctype html><title>a report</title>")
    assert "is not a comparison's page" in refused(capsys, *folders, "--out", report)
    assert report.read_text() == "<!doctype html><title>a report</title>"


def test_a_data_folder_of_no_use(runs, capsys, tmp_path):
    folders = [runs.make(name, right=range(right)) for name, right in (("a", 70), ("b", 60))]
    assert "Add --out FILE.html" in refused(capsys, *folders, "--data-dir", tmp_path)
    for folder in folders:
        rewrite(folder / "recipe.yaml", lambda text: text.replace(runs.data, "cifar10"))
    out = tmp_path / "page.html"
    assert str(tmp_path) in refused(capsys, *folders, "--data-dir", tmp_path, "--out", out)
    assert not out.exists()


def test_comparing_needs_no_torch(runs):
    folders = [str(runs.make(name, right=range(right))) for name, right in (("a", 70), ("b", 60))]
    script = (
        "import sys; from headstart.cli import main; status = main(sys.argv[1:]); "
        "print(*{'torch', 'timm', 'sklearn', 'scipy.stats'} & set(sys.modules), file=sys.stderr); "
        "sys.exit(status)"
    )
    words = ["compare", *folders, "--out", str(runs.place / "page.html"), "--json"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []
    assert json.loads(done.stdout)["n"] == 100


def test_the_builder_builds_what_evaluation_writes(runs):
    """The folders above are worth something only if they are like real ones."""
    run = runs.make("a", right=range(70))
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["label"] == row["predicted"] for row in rows) == 70
    assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] == 0.7
