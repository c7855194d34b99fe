"""Every figure against a number worked out by hand or published."""

import json
import math

import numpy as np
import pytest

from headstart.errors import DataError
from headstart.evaluation import metrics

NAMES = ["cat", "accuracy", "bird", "frog", "newt"]
"""One is the name of a row in scikit-learn's own report."""

# Cats: 3 right, 1 taken for the second class. Second class: 1 right, 1 taken for a cat. Birds: 2 right. A frog is taken
# for a cat, and none is ever predicted. Newts neither occur nor are predicted.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 2, 2, 0])


def test_a_row_of_the_confusion_matrix_is_a_true_class_and_every_class_has_one():
    assert metrics.confusion_matrix(LABELS, PREDICTED, num_classes=5).tolist() == [
        [3, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 2, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_the_table_of_a_worked_example():
    table = metrics.per_class(LABELS, PREDICTED, NAMES)
    assert list(table) == NAMES
    assert [list(row.values()) for row in table.values()] == [
        pytest.approx([3 / 5, 3 / 4, 2 / 3, 4]),
        pytest.approx([1 / 2, 1 / 2, 1 / 2, 2]),
        pytest.approx([1.0, 1.0, 1.0, 2]),
        [0.0, 0.0, 0.0, 1],
        [0.0, 0.0, 0.0, 0],
    ]
    assert all(list(row) == ["precision", "recall", "f1-score", "support"] for row in table.values())


def test_averages_of_a_worked_example_leave_out_a_class_that_is_nowhere():
    rows = metrics.averages(LABELS, PREDICTED)
    assert list(rows) == ["macro avg", "weighted avg"]
    # Means over the four classes that occur, the frog's zeros among them.
    assert rows["macro avg"] == {
        "precision": pytest.approx((3 / 5 + 1 / 2 + 1) / 4),
        "recall": pytest.approx((3 / 4 + 1 / 2 + 1) / 4),
        "f1-score": pytest.approx((2 / 3 + 1 / 2 + 1) / 4),
        "support": 9,
    }
    assert rows["weighted avg"] == {
        "precision": pytest.approx((4 * 3 / 5 + 2 * 1 / 2 + 2) / 9),
        "recall": pytest.approx(6 / 9),
        "f1-score": pytest.approx((4 * 2 / 3 + 2 * 1 / 2 + 2) / 9),
        "support": 9,
    }


def test_a_class_that_is_predicted_but_never_occurs_counts_in_the_macro_average():
    rows = metrics.averages(np.array([0, 0]), np.array([0, 4]))
    assert rows["macro avg"]["f1-score"] == pytest.approx((2 / 3 + 0) / 2)
    assert rows["weighted avg"]["f1-score"] == pytest.approx(2 / 3)


def test_tables_can_be_written_as_json():
    tables = [metrics.per_class(LABELS, PREDICTED, NAMES), metrics.averages(LABELS, PREDICTED)]
    assert json.loads(json.dumps(tables)) == tables


def test_nll_is_in_nats_and_a_confident_mistake_costs_what_it_should():
    assert metrics.nll(np.log(np.full((3, 2), 0.5)), np.array([0, 1, 0])) == pytest.approx(math.log(2))
    assert metrics.nll(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1])) == pytest.approx(math.log(8) / 2)
    # As a probability this would be 0, and its logarithm minus infinity.
    assert metrics.nll(np.array([[0.0, -5000.0]]), np.array([1])) == 5000.0


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_gives_the_published_values(correct, n, low, high):
    assert metrics.wilson_interval(correct, n) == pytest.approx((low, high), abs=6e-5)


def test_ece_of_a_worked_example():
    # Ten images at 0.9, of which six are right; ten at 0.6, of which six are right: (10 * 0.3 + 10 * 0) / 20.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 6 + [1] * 4)
    assert metrics.ece(probabilities, labels) == pytest.approx(0.15)


def test_ece_is_zero_where_confidence_is_deserved_and_one_where_all_of_it_is_wrong():
    sure = np.array([[1.0, 0.0]] * 4)
    assert metrics.ece(sure, np.zeros(4, int)) == 0.0
    assert metrics.ece(sure, np.ones(4, int)) == 1.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = metrics.reliability(np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]), np.zeros(3, int), bins=2)
    assert [(row["upper"], row["n"]) for row in bins] == [(0.5, 1), (1.0, 2)]


def test_reliability_has_fifteen_bins_that_hold_every_image_once():
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet(np.ones(3) * 0.3, size=500)
    labels = generator.integers(0, 3, 500)
    bins = metrics.reliability(probabilities, labels)
    assert len(bins) == metrics.ECE_BINS == 15
    assert sum(row["n"] for row in bins) == 500
    for row in bins:
        if row["n"]:
            assert row["lower"] < row["confidence"] <= row["upper"]
            assert row["accuracy_ci95"][0] <= row["accuracy"] <= row["accuracy_ci95"][1]
        else:
            assert row["accuracy"] is row["confidence"] is row["accuracy_ci95"] is None
    filled = [row for row in bins if row["n"]]
    by_hand = sum(row["n"] / 500 * abs(row["accuracy"] - row["confidence"]) for row in filled)
    assert metrics.ece(probabilities, labels) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("labels", "predicted", "words"),
    [
        ([], [], "without images"),
        ([0, 1], [0], "2 labels but 1 predictions"),
        ([0, 5], [0, 1], "from 0 to 1"),
        ([-1, 0], [0, 1], "from 0 to 1"),
    ],
)
def test_what_can_not_be_measured_is_refused(labels, predicted, words):
    labels, predicted = np.array(labels, int), np.array(predicted, int)
    with pytest.raises(DataError, match=words):
        metrics.confusion_matrix(labels, predicted, num_classes=2)
    with pytest.raises(DataError, match=words):
        metrics.per_class(labels, predicted, ["cat", "dog"])
