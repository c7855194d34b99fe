"""Thresholds found on validation: worked out by hand, then the promise that they make on fresh data."""

import numpy as np
import pytest

from headstart.tasks.abstention import (
    Judgement,
    about_others,
    answered,
    answers_needed,
    measure_abstention,
    missed_on_test,
    row_of,
    threshold_for,
)


def judged(*pairs):
    return Judgement(np.array([p for p, _ in pairs], np.float32), np.array([right for _, right in pairs]))


def test_the_lowest_probability_for_which_validation_shows_the_target_is_found():
    """By hand: 20 right of 20 show 92.4%, 20 of 21 show 85.3%, and 40 of 41 show 92.2%."""
    val = judged(*[(0.9, True)] * 20, (0.8, False), *[(0.7, True)] * 20, *[(0.6, False)] * 5)
    assert threshold_for(0.92, val) == pytest.approx(0.7, abs=2e-6)
    assert threshold_for(0.924, val) == pytest.approx(0.9, abs=2e-6)
    assert threshold_for(0.93, val) is None
    assert answered(threshold_for(0.92, val), val)["answered"] == 41


def test_images_of_one_probability_are_answered_together():
    """30 right of 30 would show 94.8%; with the wrong one of the same probability they show 89.8%."""
    val = judged(*[(0.9, True)] * 30, (0.9, False), *[(0.5, False)] * 2)
    assert threshold_for(0.92, val) is None
    assert threshold_for(0.89, val) == pytest.approx(0.9, abs=2e-6)
    nothing = {"n": 33, "answered": 0, "right": 0, "coverage": 0.0, "accuracy": None, "accuracy_ci95": None}
    assert answered(None, val) == nothing


@pytest.mark.parametrize("images", [200, 1000])
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_the_promise_is_kept_for_about_nine_of_ten_validation_splits(images, target):
    """An answer is right with the probability that it has, so that those from p on are right (1 + p) / 2 times."""
    generator = np.random.default_rng(1)
    kept = []
    for _ in range(300):
        confidence = generator.uniform(0.3, 1, images).astype(np.float32)
        threshold = threshold_for(target, Judgement(confidence, generator.uniform(size=images) < confidence))
        kept.append(threshold is None or (1 + threshold) / 2 >= target)
    assert 0.83 < np.mean(kept) < 0.97


def test_what_validation_can_not_show_is_said():
    few = judged(*[(0.9, True)] * 60)
    block = measure_abstention(0.9, few, few)
    assert [row["target"] for row in block["rows"]] == [0.9, 0.95, 0.98, 0.99]
    assert [row["threshold"] is None for row in block["rows"]] == [False, False, True, True]
    for target in (0.9, 0.95, 0.98, 0.99):
        needed = answers_needed(target)
        assert threshold_for(target, judged(*[(0.9, True)] * needed)) is not None
        assert threshold_for(target, judged(*[(0.9, True)] * (needed - 1))) is None


@pytest.mark.parametrize(
    ("right", "unsure_half", "target", "told"),
    [
        (1000, 0, 0.99, ""),
        (100, 0, 0.98, "99% would take about 160 validation images or more"),
        (150, 50, 0.98, "99% would take about 220 validation images or more"),
        (400, 500, 0.9, "99% would make 44.4% of the validation images sure"),
        (20, 0, 0.9, "99% would take about 160 validation images or more"),
    ],
)
def test_the_strictest_target_that_validation_supports_is_chosen(right, unsure_half, target, told):
    """All of the probable answers are right; of the others, every second one."""
    val = judged(*[(0.9, True)] * right, *[(0.5, place % 2 == 0) for place in range(unsure_half)])
    block = measure_abstention(None, val, val)
    assert block["target"] == block["suggested"] == target
    assert about_others(block) == told


def test_a_target_that_is_asked_for_is_obeyed_and_its_cost_told():
    val = judged(*[(1 - place / 1000, place % 20 > 0) for place in range(1, 200)])
    block = measure_abstention(0.99, val, val)
    assert (block["target"], block["suggested"]) == (0.99, 0.9)
    assert row_of(0.99, block)["val"]["coverage"] < 0.1
    assert about_others(block) == "90% (--abstain 0.9) would make 100.0% of the validation images sure"
    assert about_others(measure_abstention(0.5, val, val)) == ""


def test_a_target_that_test_alone_would_support_is_not_chosen():
    val = judged(*[(0.9, place % 10 > 0) for place in range(1000)])
    test = judged(*[(0.9, True)] * 1000)
    assert measure_abstention(None, val, test)["target"] == 0.9


@pytest.mark.parametrize(("wrong", "answered_on_test", "missed"), [(10, 151, True), (5, 151, False), (0, 0, False)])
def test_a_target_is_missed_only_where_chance_does_not_explain_it(wrong, answered_on_test, missed):
    """93.4% of 151 predictions reach 96.4% at most; 96.7% could be 98.6% on more images."""
    val = judged(*[(0.9, True)] * 200)
    test = judged((0.1, True), *[(0.9, place >= wrong) for place in range(answered_on_test)])
    assert missed_on_test(row_of(0.98, measure_abstention(0.98, val, test))) is missed
