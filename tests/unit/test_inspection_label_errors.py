"""Labels flipped on purpose are found, the estimates tell how many, and odd data sets are judged without a crash."""

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.inspection.label_errors import deal_folds, find_label_errors, judge_labels


def clusters(n=400, classes=4, spread=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = 3 * np.eye(classes, 8)
    return (centres[labels] + spread * generator.normal(size=(n, 8))).astype(np.float32), labels


def test_flipped_labels_are_found_with_their_class_and_the_estimates_are_near_the_truth():
    features, truth = clusters()
    labels = truth.copy()
    generator = np.random.default_rng(1)
    flipped = generator.choice(400, 25, replace=False)
    labels[flipped] = (labels[flipped] + generator.integers(1, 4, 25)) % 4
    judged = judge_labels(features, labels, np.arange(400) // 4 % 5, classes=4)
    suspected = np.flatnonzero(judged.suspected)
    assert np.isin(flipped, suspected).mean() >= 0.85
    found = np.isin(flipped, suspected)
    assert (judged.suggested[flipped[found]] == truth[flipped[found]]).mean() >= 0.9
    assert judged.noise == pytest.approx(25 / 400, abs=0.02)
    precision = np.isin(suspected, flipped).mean()
    assert judged.wrong[suspected].mean() == pytest.approx(precision, abs=0.15)
    assert set(judged.order[: len(suspected)]) == set(suspected), "suspects come first"


def test_hard_images_with_right_labels_are_not_taken_for_errors():
    features, labels = clusters(spread=2.0)
    judged = judge_labels(features, labels, np.arange(400) // 4 % 5, classes=4)
    assert judged.noise < 0.02
    assert judged.suspected.mean() < 0.02


def test_the_same_data_give_the_same_judgement():
    features, labels = clusters(100)
    first, second = (judge_labels(features, labels, np.arange(100) % 5, classes=4) for _ in range(2))
    assert np.array_equal(first.own, second.own)
    assert np.array_equal(first.order, second.order)


@pytest.mark.parametrize(
    ("labels", "judged"),
    [([0, 0, 1, 1, 1, 2], 5), ([0, 0, 0], 0), ([0, 1], 0), ([0, 0, 1, 1], 4), ([], 0)],
)
def test_tiny_data_sets_are_judged_as_far_as_that_is_possible(labels, judged):
    labels = np.array(labels, np.int64)
    features = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    names = ClassNames(("a", "b", "c"))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    split = Subset.whole(ArraySource(images, labels, names), "train")
    folds = deal_folds(split.identities, labels)
    found = find_label_errors([split], judge_labels(features, labels, folds, classes=3))
    assert (found["judged"], found["not_judged"]) == (judged, len(labels) - judged)
    assert all(np.isfinite(image["wrong"]) for image in found["list"])


def test_folds_hold_equal_shares_of_each_class_keep_copies_together_and_follow_content_alone():
    identities = [f"{i * 7919 % 1000:04}" for i in range(200)]
    identities[17] = identities[3]
    labels = np.arange(200) % 4
    folds = deal_folds(identities, labels)
    assert folds[17] == folds[3]
    counts = np.array([np.bincount(folds[labels == label], minlength=5) for label in range(4)])
    assert counts.min() >= 9
    assert counts.max() <= 11
    backwards = deal_folds(identities[::-1], labels[::-1])
    assert np.array_equal(backwards[::-1], folds)
