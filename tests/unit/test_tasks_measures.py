"""Every figure against a number worked out by hand or published, and against scikit-learn and scipy."""

import json

import numpy as np
import pytest
import scipy.special

from headstart.errors import DataError
from headstart.tasks import calibration, measures

NAMES = ["cat", "accuracy", "bird", "frog", "newt"]
"""One is the name of a row in scikit-learn's own report."""

# Cats: 3 right, 1 taken for the second class. Second class: 1 right, 1 taken for a cat. Birds: 2 right. A frog is taken
# for a cat, and none is ever predicted. Newts neither occur nor are predicted.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 2, 2, 0])


def confusion(labels=LABELS, predicted=PREDICTED, num_classes=5):
    return measures.confusion_matrix(np.array(labels), np.array(predicted), num_classes=num_classes)


def test_a_row_of_the_confusion_matrix_is_a_true_class_and_every_class_has_one():
    assert confusion().tolist() == [
        [3, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 2, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_the_mean_recall_is_that_of_the_classes_that_occur():
    import sklearn.metrics

    expected = sklearn.metrics.balanced_accuracy_score(LABELS, PREDICTED)
    assert measures.mean_recall(PREDICTED == LABELS, LABELS) == pytest.approx(expected) == (0.75 + 0.5 + 1 + 0) / 4


def test_the_table_of_a_worked_example():
    table = measures.per_class(confusion(), NAMES)
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
    macro, weighted = measures.averages(confusion())
    # Means over the four classes that occur, the frog's zeros among them.
    assert macro == {
        "precision": pytest.approx((3 / 5 + 1 / 2 + 1) / 4),
        "recall": pytest.approx((3 / 4 + 1 / 2 + 1) / 4),
        "f1-score": pytest.approx((2 / 3 + 1 / 2 + 1) / 4),
        "support": 9,
    }
    assert weighted == {
        "precision": pytest.approx((4 * 3 / 5 + 2 * 1 / 2 + 2) / 9),
        "recall": pytest.approx(6 / 9),
        "f1-score": pytest.approx((4 * 2 / 3 + 2 * 1 / 2 + 2) / 9),
        "support": 9,
    }


def test_a_class_that_is_predicted_but_never_occurs_counts_in_the_macro_average():
    macro, weighted = measures.averages(confusion([0, 0], [0, 4]))
    assert macro["f1-score"] == pytest.approx((2 / 3 + 0) / 2)
    assert weighted["f1-score"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_counting_agrees_with_scikit_learn(classes):
    import sklearn.metrics

    generator = np.random.default_rng(classes)
    for n in (1, 7, 300):
        labels, predicted = generator.integers(0, classes, (2, n))
        found = measures.confusion_matrix(labels, predicted, num_classes=classes)
        assert (found == sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes))).all()
        theirs = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, labels=range(classes), zero_division=0
        )
        ours = measures.per_class(found, [str(i) for i in range(classes)])
        assert np.array([list(row.values()) for row in ours.values()]) == pytest.approx(np.array(theirs).T)
        for row, average in zip(measures.averages(found), ("macro", "weighted"), strict=True):
            theirs = sklearn.metrics.precision_recall_fscore_support(
                labels, predicted, average=average, zero_division=0
            )
            assert list(row.values()) == pytest.approx([*theirs[:3], n])


def test_intervals_and_softmax_agree_with_scipy():
    from scipy.stats import binomtest

    for n in (1, 2, 29, 1000):
        for correct in {0, 1, n // 3, n}:
            theirs = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
            assert measures.wilson_interval(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 30
    exact = logits.astype(np.float64) / 1.7
    np.testing.assert_allclose(calibration.softmax(logits, temperature=1.7), scipy.special.softmax(exact, axis=1))
    np.testing.assert_allclose(
        calibration.log_softmax(logits, temperature=1.7), scipy.special.log_softmax(exact, axis=1)
    )


def test_tables_can_be_written_as_json():
    tables = [measures.per_class(confusion(), NAMES), *measures.averages(confusion())]
    assert json.loads(json.dumps(tables)) == tables


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
    assert measures.wilson_interval(correct, n) == pytest.approx((low, high), abs=6e-5)


def reliability(probabilities, labels, **bins):
    return measures.reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, **bins)


def ece(probabilities, labels):
    return measures.ece(reliability(probabilities, labels))


def test_ece_of_a_worked_example():
    # Ten images at 0.9, of which six are right; ten at 0.6, of which six are right: (10 * 0.3 + 10 * 0) / 20.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 6 + [1] * 4)
    assert ece(probabilities, labels) == pytest.approx(0.15)


def test_ece_is_zero_where_confidence_is_deserved_and_one_where_all_of_it_is_wrong():
    sure = np.array([[1.0, 0.0]] * 4)
    assert ece(sure, np.zeros(4, int)) == 0.0
    assert ece(sure, np.ones(4, int)) == 1.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = reliability(np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]), np.zeros(3, int), bins=2)
    assert [(row["upper"], row["n"]) for row in bins] == [(0.5, 1), (1.0, 2)]


def test_reliability_has_fifteen_bins_that_hold_every_image_once():
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet(np.ones(3) * 0.3, size=500)
    labels = generator.integers(0, 3, 500)
    bins = reliability(probabilities, labels)
    assert len(bins) == measures.ECE_BINS == 15
    assert sum(row["n"] for row in bins) == 500
    for row in bins:
        if row["n"]:
            assert row["lower"] < row["confidence"] <= row["upper"]
            assert row["accuracy_ci95"][0] <= row["accuracy"] <= row["accuracy_ci95"][1]
        else:
            assert row["accuracy"] is row["confidence"] is row["accuracy_ci95"] is None
    filled = [row for row in bins if row["n"]]
    by_hand = sum(row["n"] / 500 * abs(row["accuracy"] - row["confidence"]) for row in filled)
    assert ece(probabilities, labels) == pytest.approx(by_hand)


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
        measures.confusion_matrix(labels, predicted, num_classes=2)
