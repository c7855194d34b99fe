"""A real, if untrained, classifier is measured on real arrays; then everything that must be refused is tried."""

import csv
import json
import math
import shutil

import numpy as np
import pytest

from headstart.bundle.config import Bundle
from headstart.bundle.folder import load_bundle, save_bundle
from headstart.bundle.schema import Abstention
from headstart.contracts import ClassNames
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.sources.memory import ArraySource
from headstart.data.splits import build_manifest, split_train
from headstart.data.subset import Subset
from headstart.errors import BundleError, DataError, HeadstartError, RunError, WriteError
from headstart.evaluation.evaluate import evaluate_run
from headstart.inference.artifact import Outputs
from headstart.inference.predictor import Predictor, load
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier
from headstart.runs.run import Run
from headstart.tasks.single_label import SINGLE_LABEL

NAMES = ClassNames(("cat", "dog", "bird"))
FACTS = {
    "train_seconds": 12.5,
    "train_images_per_second": 100.0,
    "backbone": "tf_efficientnet_lite0.in1k",
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
    "peak_rss_mb": 900.0,
    "best_epoch": 1,
}


def made_dataset(seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8)
    images[60] = images[0]  # as some data sets have it: a test image that is also a training image
    labels = np.arange(90, dtype=np.int64) % 3
    train = Subset.whole(ArraySource(images[:60], labels[:60], NAMES), "train")
    test = Subset.whole(ArraySource(images[60:], labels[60:], NAMES), "test")
    return Dataset("animals", train, SealedTest(test), NAMES, "ab" * 32, "a test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder as training leaves it; tests work on copies."""
    run = tmp_path_factory.mktemp("runs") / "a-run"
    run.mkdir()
    dataset = made_dataset()
    train, val = split_train(dataset.train, val_fraction=0.3, seed=0)
    manifest = build_manifest(train, val, dataset.sealed_test)
    manifest.write(run / "split_manifest.csv")
    backbone = load_backbone("test_efficientnet", weights="none", progress=False)
    bundle = Bundle(
        module=build_classifier(backbone, num_classes=3, seed=0).eval(),
        class_names=NAMES,
        preprocess=backbone.preprocess.__class__(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        architecture=backbone.architecture,
        backbone=backbone.name,
        hidden=(),
        dropout=0.0,
        dataset="animals",
        manifest_sha256=manifest.sha256,
        flip=True,
    )
    save_bundle(bundle, run / "model")
    (run / "training.json").write_text(json.dumps(FACTS | {"probe_val_accuracy": 0.5}))
    (run / "environment.json").write_text(json.dumps({"seed": 0, "test_openings": []}))
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def openings(run):
    return json.loads((run / "environment.json").read_text())["test_openings"]


@pytest.fixture
def sealed(monkeypatch):
    """Fail the test when the test split is opened."""

    def opened(self):
        pytest.fail("the test split was opened")

    monkeypatch.setattr(SealedTest, "open", opened)


def test_the_run_gets_its_figures_its_predictions_and_its_temperature(run):
    seen = []
    result = evaluate_run(
        Run(run), made_dataset(), command="headstart evaluate run", progress=lambda *s: seen.append(s)
    )

    assert json.loads((run / "metrics.json").read_text()) == result.to_dict()
    assert FACTS.items() <= result.items()
    assert result["probe_val_accuracy"] == 0.5
    with (run / "split_manifest.csv").open(newline="") as file:
        home = next(line["split"] for line in csv.DictReader(file) if line["row"] == "0")
    assert result["straddling"] == {"train+val": 0, "train+test": 0, "val+test": 0} | {f"{home}+test": 1}
    assert (result["val"]["n"], result["test"]["n"]) == (18, 30)
    assert set(result["test"]["per_class"]) == set(NAMES)
    assert {"accuracy", "macro_f1", "nll", "ece", "ece_calibrated", "accuracy_ci95"} <= set(result["test"])
    assert seen[-1] == (90, 90)  # 42 training images fit the novelty score
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    bundle = load_bundle(run / "model")
    assert bundle.temperature == result["temperature"]
    assert bundle.metrics["test"]["accuracy"] == result["test"]["accuracy"]
    assert not list(run.glob(".*")), "nothing half-written stays"


def test_predictions_are_those_of_the_classifier_as_it_is_shipped(run):
    dataset = made_dataset()
    result = evaluate_run(Run(run), dataset, command="c")
    with (run / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    test = dataset.sealed_test.open()
    shipped = load(run).predict(test.source.array)

    shares = [f"p_{name}" for name in NAMES]
    doubts = ["unsure", "unfamiliar", "novelty"]
    assert list(lines[0]) == ["row", "sha256", "label", "predicted", "probability", *shares, *doubts]
    assert [[line["unsure"], line["unfamiliar"]] for line in lines] == [
        [str(mark).lower() for mark in marks]
        for marks in zip(shipped.unsure.tolist(), shipped.unfamiliar.tolist(), strict=True)
    ]
    assert [float(line["novelty"]) for line in lines] == pytest.approx(shipped.novelty.tolist(), rel=1e-4)
    assert [line["sha256"] for line in lines] == dataset.sealed_test.image_hashes()
    assert [line["label"] for line in lines] == [NAMES[int(i)] for i in test.labels]
    assert [line["predicted"] for line in lines] == shipped.labels
    for line, probabilities in zip(lines, shipped.probabilities, strict=True):
        stated = [float(line[f"p_{name}"]) for name in NAMES]
        assert stated == pytest.approx(probabilities.tolist(), abs=2e-6)
        assert float(line["probability"]) == max(stated)
    right = sum(line["label"] == line["predicted"] for line in lines)
    assert result["test"]["accuracy"] == pytest.approx(right / 30, abs=1e-6)
    # Already calibrated, they are as certain without a temperature as the measured ones are with it.
    certain = SINGLE_LABEL.measure(np.log(shipped.probabilities), test.labels, names=NAMES.names)
    assert result["temperature"] != pytest.approx(1, abs=0.05)
    for key in ("nll_calibrated", "ece_calibrated"):
        assert certain[key] == pytest.approx(result["test"][key], abs=1e-5)


def test_what_is_called_sure_travels_with_the_classifier(run):
    dataset = made_dataset()
    result = evaluate_run(Run(run), dataset, command="c", abstain=0.5)
    row = next(row for row in result["abstention"]["rows"] if row["target"] == 0.5)
    assert [row["target"] for row in result["abstention"]["rows"]] == [0.5, 0.9, 0.95, 0.98, 0.99]

    predictor = load(run)
    val = Run(run).manifest().select(dataset.train, "val")
    certain = predictor.predict(val.source.array[val.rows]).probabilities.max(axis=1)
    assert np.abs(certain - row["threshold"]).min() < 1e-5
    found = predictor.predict(dataset.sealed_test.open().source.array)
    assert found.unsure is not None
    assert (~found.unsure).sum() == row["test"]["answered"]
    assert Run(run).metrics().abstention == result["abstention"]
    shipped = load_bundle(run / "model").abstention
    assert shipped == Abstention(
        target=0.5, threshold=row["threshold"], answered=row["val"]["answered"], right=row["val"]["right"]
    )
    assert shipped.meaning in (run / "model" / "README.md").read_text()


def test_novelty_is_scored_in_the_same_pass_and_travels_with_the_classifier(run):
    dataset = made_dataset()
    images = dataset.sealed_test.open().source.array
    before = load(run)
    old = before.predict(images)
    assert (old.unsure, old.novelty, old.unfamiliar) == (None, None, None)
    result = evaluate_run(Run(run), dataset, command="c")

    after = load(run)
    np.testing.assert_array_equal(after.logits(images), before.logits(images))
    found = after.predict(images)
    assert found.novelty is not None
    assert found.unfamiliar.mean() == pytest.approx(result["novelty"]["test_false_alarms"], abs=1e-5)
    assert result["novelty"]["val_false_alarms"] <= 0.06
    assert result["novelty"]["reference_images"] == 42
    np.testing.assert_allclose(found.novelty, after.predict(list(images)).novelty, atol=1e-3)

    (run / "model" / "novelty.safetensors").unlink()
    with pytest.raises(BundleError, match=r"novelty\.safetensors is missing"):
        load(run)


def test_the_figures_of_a_split_worked_out_by_hand():
    # Softmax of (log 3, 0, -inf) is (3/4, 1/4, 0). Three such answers, of which one is wrong; no bird anywhere.
    logits = np.array([[math.log(3), 0, -1e30]] * 2 + [[0, math.log(3), -1e30]], np.float32)
    shown = SINGLE_LABEL.measure(logits, np.array([0, 1, 1]), names=NAMES.names)
    assert (shown["n"], shown["accuracy"], shown["macro_f1"]) == (3, 0.666667, 0.666667)
    assert shown["accuracy_ci95"] == pytest.approx([0.207660, 0.938510], abs=1e-5)
    assert shown["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert shown["per_class"] == {
        "cat": {"precision": 0.5, "recall": 1.0, "f1-score": 0.666667, "support": 1},
        "dog": {"precision": 1.0, "recall": 0.5, "f1-score": 0.666667, "support": 2},
        "bird": {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0},
    }
    assert shown["nll"] == shown["nll_calibrated"] == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3, abs=1e-6)
    assert shown["ece"] == shown["ece_calibrated"] == pytest.approx(0.75 - 2 / 3, abs=1e-6)


def test_each_opening_is_logged_before_the_split_is_read(run, monkeypatch):
    logged, really_open = [], SealedTest.open
    monkeypatch.setattr(SealedTest, "open", lambda self: (logged.append(openings(run)), really_open(self))[1])
    evaluate_run(Run(run), made_dataset(), command="first")
    evaluate_run(Run(run), made_dataset(), command="second")
    assert [[opening["command"] for opening in state] for state in logged] == [["first"], ["first", "second"]]
    assert all(opening["time"].endswith("+00:00") for opening in openings(run))
    assert json.loads((run / "environment.json").read_text())["seed"] == 0


def test_evaluating_again_gives_the_same_figures_and_keeps_the_times_of_the_whole_run(run):
    first = evaluate_run(Run(run), made_dataset(), command="c")
    assert first["total_seconds"] is None
    (run / "metrics.json").write_text(json.dumps({**first, "total_seconds": 77.0, "peak_rss_mb": 1234.0}))
    again = evaluate_run(Run(run), made_dataset(), command="c")
    assert (again["total_seconds"], again["peak_rss_mb"]) == (77.0, 1234.0)
    assert (again["val"], again["test"], again["temperature"]) == (first["val"], first["test"], first["temperature"])


def test_images_that_moved_between_the_splits_are_refused(run, sealed):
    dataset = made_dataset()
    dataset.train.source.array[[1, 2]] = dataset.sealed_test._subset.source.array[[1, 2]]
    with pytest.raises(DataError, match="2 "):
        evaluate_run(Run(run), dataset, command="c")
    assert openings(run) == []


def test_another_data_set_is_refused(run, sealed):
    with pytest.raises(DataError):
        evaluate_run(Run(run), made_dataset(seed=1), command="c")
    assert openings(run) == []
    assert not (run / "metrics.json").exists()


def test_another_runs_manifest_is_refused(run, sealed):
    dataset = made_dataset()
    train, val = split_train(dataset.train, val_fraction=0.3, seed=99)
    build_manifest(train, val, dataset.sealed_test).write(run / "split_manifest.csv")
    with pytest.raises(DataError, match="is not the split that"):
        evaluate_run(Run(run), dataset, command="c")
    assert openings(run) == []


def test_classes_in_another_order_are_refused(run, sealed):
    dataset = made_dataset()
    swapped = Dataset("animals", dataset.train, dataset.sealed_test, ClassNames(("dog", "cat", "bird")), "ab", "")
    with pytest.raises(
        DataError, match="knows the classes 'cat', 'dog', 'bird', but data set 'animals' has 'dog', 'cat'"
    ):
        evaluate_run(Run(run), swapped, command="c")
    assert openings(run) == []


@pytest.mark.parametrize("file", ["training.json", "environment.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_an_incomplete_run_is_refused(run, sealed, file, content):
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(RunError, match=file):
        evaluate_run(Run(run), made_dataset(), command="c")


def test_missing_training_facts_are_named(run, sealed):
    (run / "training.json").write_text(json.dumps({k: v for k, v in FACTS.items() if k not in ("seed", "device")}))
    with pytest.raises(RunError, match=r"training\.json is damaged: device is missing; seed is missing"):
        evaluate_run(Run(run), made_dataset(), command="c")


def test_an_opening_that_can_not_be_logged_does_not_happen(run, sealed, monkeypatch):
    def full(path, value):
        raise WriteError(path, OSError(28, "No space left on device"))

    monkeypatch.setattr("headstart.runs.run.write_json", full)
    with pytest.raises(WriteError, match=r"environment\.json.*No space left on device"):
        evaluate_run(Run(run), made_dataset(), command="c")


def test_outputs_that_are_not_finite_are_an_error_before_the_split_is_opened(run, sealed, monkeypatch):
    logits = np.zeros((42, 3), np.float32)
    logits[4] = np.nan

    def broken(self, images, **_):
        return Outputs(logits)

    monkeypatch.setattr(Predictor, "outputs", broken)
    with pytest.raises(HeadstartError, match=r"not finite for 1 of 42 train images, first for row \d+"):
        evaluate_run(Run(run), made_dataset(), command="c")
    assert openings(run) == []


def test_temperature_changes_confidence_and_nothing_else():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 3)).astype(np.float32), generator.integers(0, 3, 200)
    cold, warm = (SINGLE_LABEL.measure(logits, labels, names=NAMES.names, temperature=t) for t in (0.3, 3.0))
    unchanged = ("accuracy", "macro_f1", "confusion_matrix", "per_class", "nll", "ece", "reliability")
    assert {key: cold[key] for key in unchanged} == {key: warm[key] for key in unchanged}
    assert cold["ece_calibrated"] > warm["ece_calibrated"]
    assert cold["nll_calibrated"] > warm["nll_calibrated"]
