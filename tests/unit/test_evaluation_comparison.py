"""The statistics of a comparison against values by hand, against scipy and scikit-learn, and by simulation."""

import warnings

import numpy as np
import pytest

from headstart.evaluation.comparison import (
    cohen_kappa,
    compare_predictions,
    holm,
    mcnemar_p_value,
    smallest_significant_gap,
)


def answers(n=600, classes=4, *, right=(0.7, 0.8), seed=3):
    """Labels, and what two classifiers say that are right in these shares of all images, partly on the same ones."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    hardness = generator.random(n)
    said = []
    for share in right:
        hit = 0.7 * hardness + 0.3 * generator.random(n) < np.quantile(0.7 * hardness + 0.15, share)
        said.append(np.where(hit, labels, (labels + generator.integers(1, classes, n)) % classes))
    return labels, *said


@pytest.mark.parametrize(
    ("first_only", "second_only", "by_hand"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 2**5),
        (6, 0, 2 / 2**6),
        (1, 9, 2 * (1 + 10) / 2**10),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
    ],
)
def test_mcnemar_by_hand(first_only, second_only, by_hand):
    assert mcnemar_p_value(first_only, second_only) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("first_only", "second_only"), [(3, 4), (12, 31), (370, 328), (900, 1400), (2, 5000)])
def test_mcnemar_is_scipys_exact_test(first_only, second_only):
    import scipy.stats

    exact = scipy.stats.binomtest(first_only, first_only + second_only, 0.5).pvalue
    assert mcnemar_p_value(first_only, second_only) == pytest.approx(exact, rel=1e-9)


def test_mcnemar_falsely_alarms_no_more_often_than_it_promises():
    wins = np.random.default_rng(0).binomial(80, 0.5, 4000)
    alarms = np.mean([mcnemar_p_value(int(won), 80 - int(won)) < 0.05 for won in wins])
    assert 0.02 < alarms <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("tosses", [6, 7, 40, 698, 699])
def test_the_smallest_gap_is_significant_and_the_next_smaller_is_not(tosses):
    gap = smallest_significant_gap(tosses)
    p_values = [mcnemar_p_value((tosses - g) // 2, (tosses + g) // 2) for g in (gap, gap - 2)]
    assert p_values[0] < 0.05 <= p_values[1]


@pytest.mark.parametrize("tosses", [0, 1, 5])
def test_a_few_images_can_show_nothing(tosses):
    assert smallest_significant_gap(tosses) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.7, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def test_figures_are_those_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score, f1_score, recall_score

    labels, first, second = answers()
    found = compare_predictions(labels, first, second, num_classes=4)
    assert found.accuracy.value == pytest.approx((second == labels).mean() - (first == labels).mean())
    macro = [f1_score(labels, said, average="macro") for said in (first, second)]
    assert found.macro_f1.value == pytest.approx(macro[1] - macro[0])
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert found.agreement == (first == second).mean()
    for name, score in (("f1", f1_score), ("recall", recall_score)):
        for side, said in enumerate((first, second)):
            expected = score(labels, said, average=None)
            assert [getattr(c, name)[side] for c in found.classes] == pytest.approx(expected.tolist())
    counts = (found.both_right, found.first_only, found.second_only, found.both_wrong)
    assert sum(counts) == found.n == 600
    assert counts[2] - counts[1] == round(found.accuracy.value * 600)
    for i, one in enumerate(found.classes):
        assert one.support == (labels == i).sum()
        assert one.first_only == ((labels == i) & (first == i) & (second != i)).sum()
        assert one.second_only == ((labels == i) & (first != i) & (second == i)).sum()


def test_the_bootstrap_is_the_one_that_draws_images():
    from sklearn.metrics import f1_score

    labels, first, second = answers(n=300)

    def macro_f1_change(rows):
        return f1_score(labels[rows], second[rows], average="macro") - f1_score(
            labels[rows], first[rows], average="macro"
        )

    generator = np.random.default_rng(1)
    drawn = [macro_f1_change(generator.integers(0, 300, 300)) for _ in range(300)]
    found = compare_predictions(labels, first, second, num_classes=4)
    spread = np.std(drawn)
    assert [found.macro_f1.low, found.macro_f1.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=spread / 4)
    right = (second == labels).astype(float) - (first == labels)
    normal = right.mean() + np.array([-1.96, 1.96]) * right.std() / np.sqrt(300)
    assert [found.accuracy.low, found.accuracy.high] == pytest.approx(normal, abs=2 / 300)


def test_intervals_hold_the_truth_as_often_as_they_promise():
    population = answers(n=20_000, right=(0.72, 0.78), seed=8)
    labels, first, second = population
    truth = (second == labels).mean() - (first == labels).mean()
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        rows = generator.integers(0, len(labels), 500)
        found = compare_predictions(labels[rows], first[rows], second[rows], num_classes=4, resamples=1000).accuracy
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 200 <= 0.985


def test_a_seed_decides_and_memory_does_not(monkeypatch):
    labels, first, second = answers()
    found = compare_predictions(labels, first, second, num_classes=4, resamples=1000)
    assert found == compare_predictions(labels, first, second, num_classes=4, resamples=1000)
    assert found.accuracy != compare_predictions(labels, first, second, num_classes=4, resamples=1000, seed=1).accuracy
    monkeypatch.setattr("headstart.evaluation.comparison._NUMBERS_AT_ONCE", 700)
    assert found == compare_predictions(labels, first, second, num_classes=4, resamples=1000)


def test_the_other_way_round_changes_signs_only():
    labels, first, second = answers()
    there = compare_predictions(labels, first, second, num_classes=4)
    back = compare_predictions(labels, second, first, num_classes=4)
    assert back.accuracy.value == pytest.approx(-there.accuracy.value)
    assert (back.p_value, back.kappa, back.first_only) == (there.p_value, pytest.approx(there.kappa), there.second_only)


def test_identical_predictions():
    labels, first, _ = answers()
    found = compare_predictions(labels, first, first.copy(), num_classes=4)
    # Were a larger share lost, 97.5% of samples of this size would show it.
    unseen = 1 - 0.025 ** (1 / len(labels))
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == pytest.approx((0, -unseen, unseen))
    assert (found.p_value, found.agreement, found.smallest_gap) == (1, 1, None)
    assert found.kappa == pytest.approx(1)


def test_more_images_lost_never_look_better():
    labels = np.arange(200, dtype=np.int64) % 4
    ends = []
    for lost in range(6):
        second = labels.copy()
        second[:lost] = (labels[:lost] + 1) % 4
        ends.append(compare_predictions(labels, labels, second, num_classes=4).accuracy.low)
    assert ends == sorted(ends, reverse=True)
    assert ends[0] < 0


def test_a_class_of_few_images_shows_little_even_where_nothing_changes():
    labels = np.array([0] * 60 + [1] * 5)
    found = compare_predictions(labels, labels, labels.copy(), num_classes=2)
    large, small = found.classes
    changes = [(60, large.recall_change), (5, small.recall_change), (5, small.f1_change), (65, found.macro_f1)]
    for count, change in changes:
        unseen = 1 - 0.025 ** (1 / count)  # as for identical predictions
        assert (change.value, change.low, change.high) == pytest.approx((0, -unseen, unseen))


def test_images_of_one_class_only_and_classes_without_images():
    labels = np.zeros(50, dtype=np.int64)
    first, second = labels.copy(), labels.copy()
    second[:5] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_predictions(labels, first, second, num_classes=3)
    one, predicted, absent = found.classes
    assert one.recall == (1.0, 0.9)
    assert one.recall_change.high <= 0
    # No image is of the second class: it has no recall, and an F1 of 0 only where it was predicted.
    assert (predicted.support, predicted.recall, predicted.f1) == (0, (None, None), (None, 0.0))
    assert (predicted.recall_change, predicted.f1_change) == (None, None)
    assert (absent.recall, absent.f1, absent.f1_change) == ((None, None), (None, None), None)
    assert found.macro_f1.value == pytest.approx(2 * 45 / 95 / 2 - 1)


def test_kappa_is_undefined_where_both_know_one_class():
    same = np.ones(10, dtype=np.int64)
    assert cohen_kappa(same, same, num_classes=2) is None
    assert cohen_kappa(same, 1 - same, num_classes=2) == 0
