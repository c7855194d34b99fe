"""The figures of a split: written as metrics.json has them, read back, and refused when something is wrong."""

import json

import numpy as np
import pytest

from headstart.tasks.metrics import METRICS, balanced_accuracy, is_uneven, shown_in
from headstart.tasks.read import read_split
from headstart.tasks.single_label import SINGLE_LABEL

KEYS = [
    "accuracy",
    "accuracy_ci95",
    "n",
    "macro_f1",
    "nll",
    "nll_calibrated",
    "ece",
    "ece_calibrated",
    "ece_bins",
    "per_class",
    "macro avg",
    "weighted avg",
    "confusion_matrix",
    "reliability",
    "reliability_calibrated",
]


@pytest.fixture
def measured():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    logits = generator.normal(size=(60, 3)).astype(np.float32)
    logits[np.arange(60), labels] += 2
    return SINGLE_LABEL.measure(logits, labels, names=("cat", "dog", "a 'b', c"), temperature=0.8)


def changed(measured, path, value):
    content = json.loads(json.dumps(measured.to_dict()))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def test_the_file_holds_the_keys_that_scripts_rely_on(measured):
    assert list(measured.to_dict()) == KEYS
    assert list(measured.to_dict()["per_class"]["cat"]) == ["precision", "recall", "f1-score", "support"]


def test_what_was_written_is_read_back(measured):
    again = read_split(json.loads(json.dumps(measured.to_dict())))
    assert again == measured
    assert again.to_dict() == measured.to_dict()
    assert read_split(measured.to_dict() | {"of a later version": 1}) == measured


def test_it_is_read_by_key_as_well(measured):
    assert measured["accuracy"] == measured.accuracy
    assert measured["macro avg"]["support"] == 60
    assert measured.get("unknown") is None
    assert dict(measured) == measured.to_dict() == measured
    with pytest.raises(KeyError):
        measured["macro_avg"]


def test_a_bundle_keeps_all_but_the_long_tables(measured):
    assert set(KEYS) - set(measured.headline()) == {"confusion_matrix", "reliability", "reliability_calibrated"}


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_figure_is_named(measured, key):
    content = measured.to_dict()
    del content[key]
    with pytest.raises(ValueError, match=key):
        read_split(content)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["accuracy"], "0.9", "accuracy.*number"),
        (["accuracy"], float("nan"), "accuracy.*finite"),
        (["accuracy"], True, "accuracy"),
        (["accuracy"], 10**400, "accuracy"),
        (["macro_f1"], 1.2, "macro_f1"),
        (["nll"], float("inf"), "nll"),
        (["n"], 0, "n: .*greater"),
        (["n"], 3.5, "n: .*integer"),
        (["accuracy_ci95"], [0.1], "accuracy_ci95"),
        (["accuracy_ci95"], [0.1, None], "accuracy_ci95"),
        (["per_class"], {}, "per_class"),
        (["per_class", "cat"], 3, r"per_class\.cat"),
        (["per_class", "cat", "recall"], None, r"per_class\.cat\.recall"),
        (["per_class", "cat", "support"], -1, "support"),
        (["macro avg"], [], "macro avg"),
        (["confusion_matrix"], [[1, 2, 3]], "3 classes"),
        (["confusion_matrix", 0], [1, 2], "3 classes"),
        (["confusion_matrix", 0, 0], "1", "confusion_matrix"),
        (["reliability"], {}, "reliability"),
        (["reliability", 14], 1, "reliability"),
        (["reliability", 14, "n"], None, r"reliability\.14\.n"),
        (["reliability_calibrated", 14, "accuracy"], None, r"reliability_calibrated\.14: .*accuracy"),
    ],
)
def test_a_wrong_figure_is_named(measured, path, value, words):
    assert min(measured.reliability[14]["n"], measured.reliability_calibrated[14]["n"]) > 0
    with pytest.raises(ValueError, match=words):
        read_split(changed(measured, path, value))


@pytest.mark.parametrize("content", [None, [], 3, "text"])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(ValueError, match="object"):
        read_split(content)


def test_the_list_of_metrics_names_figures_of_a_split(measured):
    for metric in METRICS:
        assert metric.write(measured[metric.name])
        assert metric.interval is None or len(measured[metric.interval]) == 2
    assert {metric.shown <= {"card", "terminal", "page", "comparison"} for metric in METRICS} == {True}
    assert [metric.name for metric in shown_in("comparison")] == ["accuracy", "macro_f1", "ece_calibrated"]


def test_uneven_classes_and_their_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    labels = np.array([0] * 30 + [1] * 16)
    logits = np.random.default_rng(1).normal(size=(46, 3)).astype(np.float32)
    found = SINGLE_LABEL.measure(logits, labels, names=("cat", "dog", "okapi"), temperature=1.0)
    assert is_uneven(found.per_class)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert balanced_accuracy(found.per_class) == pytest.approx(expected, abs=1e-5)
    even = SINGLE_LABEL.measure(logits[:40], labels[6:46], names=("cat", "dog", "okapi"), temperature=1.0)
    assert not is_uneven(even.per_class)
