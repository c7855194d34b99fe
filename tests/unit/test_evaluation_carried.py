"""An export is compared, and measured on other data, by what it carries of its run, which must be whole."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

import headstart
from headstart.cli import main
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store
from headstart.evaluation.carried import FILES
from headstart.files import file_sha256
from headstart.inference.onnx_artifact import OnnxArtifact
from headstart.runs.run import Run
from headstart.tasks.measures import confusion_matrix
from made_run import restate

GATE = ("--gate", "not worse than 4 points at 95 %")
"""With no loss among 100 images, up to 3.6 points could still be lost."""


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture
def new_images(sample, tmp_path):
    """Images that the run has never seen, of three of its classes."""
    images = 255 - sample.sealed_test._subset.source.array[:60, ::-1]
    labels = np.arange(60) % 3
    arrays = Arrays(images[:30], labels[:30], images[30:], labels[30:])
    write_store(tmp_path / "new", arrays, name="new", class_names=first_classes(sample), source="made")
    return tmp_path / "new"


def first_classes(sample):
    return type(sample.class_names)(tuple(sample.class_names)[:3])


def seal(export):
    """Let the certificate name the files as they are now, as that of another classifier would."""
    certificate = json.loads((export / "certificate.json").read_text())
    certificate["measured"] = {name: file_sha256(export / "measured" / name) for name in FILES}
    (export / "certificate.json").write_text(json.dumps(certificate))


def rewrite_predictions(export, change):
    path = export / "measured" / "predictions.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(change(row) for row in rows)
    path.write_text(text.getvalue())


def compare(capsys, *words):
    status = main(["compare", *map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    status, found = compare(capsys, *words)
    assert status == 2
    assert "bug" not in found["error"]
    return found["error"]


def test_an_export_carries_what_was_measured_of_it_and_no_path(exported, measured):
    carried = Run(exported / "measured")
    certificate = json.loads((exported / "certificate.json").read_text())
    assert sorted(path.name for path in carried.path.iterdir()) == sorted(certificate["measured"]) == list(FILES)
    assert carried.metrics().test.headline() == certificate["test"]["export"]
    assert carried.metrics().val.accuracy == measured.metrics().val.accuracy
    assert carried.manifest() == measured.manifest()
    rows = {row.sha256: row.predicted for row in measured.predictions()}
    assert {row.sha256: row.predicted for row in carried.predictions()} == rows
    assert carried.recipe().data.name == ".../cifar10-sample"
    assert not any(b"/tests/data" in path.read_bytes() for path in carried.path.iterdir())


def test_a_run_and_its_export_pass_the_gate(measured, exported, capsys):
    status, found = compare(capsys, measured.path, exported, *GATE)
    (pair,) = found["pairs"]
    assert (status, found["gate"]["passed"], pair["verdict"]) == (0, True, "same answers")
    assert [run["export"] for run in found["runs"]] == [None, "fp32"]
    assert found["runs"][0]["accuracy"] == found["runs"][1]["accuracy"]
    assert (pair["settings"], found["same_recipe"]) == ({}, [])


def test_a_worse_export_does_not_pass(exported, copy, sample, capsys, tmp_path):
    right = [row for row in Run(copy / "measured").predictions() if row.label == row.predicted]
    changed = {row.sha256 for row in right[:5]}
    wrong = dict(zip(sample.class_names, tuple(sample.class_names)[1:] + tuple(sample.class_names)[:1], strict=True))

    def change(row):
        return row | ({"predicted": wrong[row["label"]]} if row["sha256"] in changed else {})

    rewrite_predictions(copy, change)
    metrics = json.loads((copy / "measured" / "metrics.json").read_text())
    metrics["test"]["accuracy"] -= len(changed) / 100
    (copy / "measured" / "metrics.json").write_text(json.dumps(metrics))
    seal(copy)
    page = tmp_path / "page.html"
    status, found = compare(capsys, exported, copy, *GATE, "--out", page)
    assert (status, found["gate"]["passed"]) == (1, False)
    assert found["pairs"][0]["mcnemar"]["first_only"] == len(changed) > 0
    assert "copy" in page.read_text()
    assert compare(capsys, copy, exported, *GATE)[0] == 0


def test_an_export_in_integers_is_another_classifier_than_its_run(copy, measured, capsys):
    restate(copy, precision="int8")
    _, found = compare(capsys, measured.path, copy)
    assert found["pairs"][0]["settings"] == {"export": [None, "int8"]}
    assert found["same_recipe"] == []


def test_exports_measured_on_other_images_are_not_compared(measured, copy, capsys):
    other = "f" * 64
    first = measured.predictions()[0].sha256
    rewrite_predictions(copy, lambda row: row | {"sha256": row["sha256"].replace(first, other)})
    manifest = copy / "measured" / "split_manifest.csv"
    manifest.write_text(manifest.read_text().replace(first, other))
    seal(copy)
    told = refused(capsys, measured.path, copy)
    assert "different test splits" in told
    assert "1 of the test images of tiny are not in copy" in told


@pytest.mark.parametrize("name", [*FILES, "certificate.json", "config.json", "model.onnx"])
def test_a_file_that_is_another_is_noticed(name, measured, copy, capsys):
    path = copy / name if (copy / name).is_file() else copy / "measured" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refused(capsys, measured.path, copy)
    path.unlink()
    assert str(path) in refused(capsys, measured.path, copy)


def test_the_certificate_of_another_model_is_noticed(measured, copy, capsys):
    certificate = json.loads((copy / "certificate.json").read_text())
    certificate["files"]["model.onnx"] = "0" * 64
    (copy / "certificate.json").write_text(json.dumps(certificate))
    assert "certificate of another model" in refused(capsys, measured.path, copy)


def test_what_has_no_predictions_is_not_compared(measured, copy, capsys, small_classifier):
    shutil.rmtree(copy / "measured")
    assert "carries no predictions" in refused(capsys, measured.path, copy)
    assert "a classifier without its run" in refused(capsys, measured.path, small_classifier)


def test_an_export_is_measured_on_other_data_as_its_run_is(
    measured, exported, new_images, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    theirs = headstart.evaluate_on(measured.path, new_images, out=tmp_path / "theirs", progress=False)
    assert main(["evaluate", str(exported), "--on", str(new_images), "--quiet", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert ours["figures"]["confusion_matrix"] == theirs.figures["confusion_matrix"]
    assert ours["figures"]["nll"] == pytest.approx(theirs.figures["nll"], abs=1e-4)
    assert ours["drift"]["accuracy"] == theirs.drift["accuracy"]
    assert ours["doubts"]["unsure"] == theirs.doubts["unsure"]
    written = json.loads((tmp_path / "tiny-on-new" / "evaluation.json").read_text())
    assert written["weights_sha256"] == file_sha256(exported / "model.onnx")
    assert "since validation" in (tmp_path / "tiny-on-new" / "report.html").read_text()
    assert not list(exported.glob("*on-*"))


def test_figures_of_an_export_are_those_of_the_probabilities_that_it_gives(
    exported, new_images, sample, tmp_path, monkeypatch
):
    images = 255 - sample.sealed_test._subset.source.array[:60, ::-1]
    turned = 9 - headstart.load(exported).predict(images).indices
    real = OnnxArtifact.outputs

    def turn_over(self, squares, **asked):
        outputs = real(self, squares, **asked)
        return outputs._replace(probabilities=outputs.probabilities[:, ::-1].copy())

    monkeypatch.setattr(OnnxArtifact, "outputs", turn_over)
    found = headstart.evaluate_on(exported, new_images, out=tmp_path / "out", progress=False)
    expected = confusion_matrix(np.arange(60) % 3, turned, num_classes=10)
    assert found.figures["confusion_matrix"] == expected.tolist()


def test_images_that_its_run_has_seen_do_not_count_for_an_export(exported, sample, sample_dir, tmp_path, capsys):
    seen = sample.train.source.array[:20]
    fresh = 255 - seen
    labels = np.arange(20) % 3
    write_store(
        tmp_path / "mixed",
        Arrays(seen, labels, fresh, labels),
        name="mixed",
        class_names=first_classes(sample),
        source="made",
    )
    found = headstart.evaluate_on(exported, tmp_path / "mixed", out=tmp_path / "out", progress=False)
    assert found.left_out == {"images of the run itself": 20}
    assert main(["evaluate", str(exported), "--on", str(sample_dir), "--out", str(tmp_path / "x"), "-q"]) == 2
    assert "the run has seen all 600 of them" in capsys.readouterr().err


def test_of_a_classifier_without_its_run_nothing_is_said_to_have_moved(small_classifier, sample, tmp_path, capsys):
    names = type(sample.class_names)(("cat", "dog"))
    images, labels = sample.train.source.array[:20], np.arange(20) % 2
    write_store(
        tmp_path / "pets", Arrays(images, labels, images, labels), name="pets", class_names=names, source="made"
    )
    words = ["evaluate", str(small_classifier), "--on", str(tmp_path / "pets"), "--out", str(tmp_path / "out"), "-q"]
    assert main(words) == 0
    assert "came without its run" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (written["drift"], written["run"], written["model"]) == (None, None, "small-classifier")
    page = re.sub(r"\s+", " ", (tmp_path / "out" / "report.html").read_text())
    assert "came without its run" in page
    assert "What has moved" not in page


@pytest.mark.parametrize("path", ["x" * 300, "a-file", "a-file/x", "nowhere", ""])
def test_what_is_no_place_is_refused_everywhere(path, exported, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("x")
    run = str(measured.path)
    for words in (
        ["compare", run, path],
        ["evaluate", path, "--on", "data"],
        ["export", path, "--out", "out"],
        ["verify", path],
        ["push", path, "me/pets"],
        ["push", run, "me/pets", "--export", path],
    ):
        assert main(words) == 2, words
        assert "bug" not in capsys.readouterr().err
    assert main(["evaluate", str(exported), "--on", run, "--out", "a-file", "-q"]) == 2
    assert [found.name for found in tmp_path.iterdir()] == ["a-file"]


def test_what_has_no_sealed_test_is_not_evaluated_on_it(exported, small_classifier, capsys):
    for model, what in ((exported, "is an export"), (small_classifier, "is a classifier without its run")):
        assert main(["evaluate", str(model), "-q"]) == 2
        told = capsys.readouterr().err
        assert what in told
        assert f"headstart evaluate {model} --on DATA" in told
