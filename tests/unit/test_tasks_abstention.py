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


def test_the_lowest_probability_that_reaches_the_target_is_found():
    val = judged((0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, True), (0.4, False))
    assert threshold_for(0.8, val) == pytest.approx(0.5, abs=2e-6)
    assert threshold_for(0.95, val) == pytest.approx(0.8, abs=2e-6)
    assert answered(threshold_for(0.8, val), val)["answered"] == 5


def test_images_of_one_probability_are_answered_together():
    val = judged((0.9, True), (0.9, False), (0.5, True), (0.5, True))
    assert threshold_for(0.9, val) is None
    assert threshold_for(0.75, val) == pytest.approx(0.5, abs=2e-6)
    nothing = {"n": 4, "answered": 0, "right": 0, "coverage": 0.0, "accuracy": None, "accuracy_ci95": None}
    assert answered(None, val) == nothing


@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
def test_the_target_is_met_on_validation_and_nearly_on_new_images(target):
    generator = np.random.default_rng(1)

    def split(n):
        confidence = generator.uniform(0.3, 1, n).astype(np.float32)
        return Judgement(confidence, generator.uniform(size=n) < confidence)

    val, test = split(5000), split(5000)
    threshold = threshold_for(target, val)
    on_val, on_test = answered(threshold, val), answered(threshold, test)
    assert on_val["accuracy"] >= target
    assert on_test["accuracy_ci95"][0] <= target <= on_test["accuracy_ci95"][1] + 0.01


def test_what_validation_can_not_show_is_said():
    few = judged(*[(0.9, True)] * 60)
    block = measure_abstention(0.9, few, few)
    assert [row["target"] for row in block["rows"]] == [0.9, 0.95, 0.98, 0.99]
    assert [row["enough"] for row in block["rows"]] == [True, True, False, False]
    assert answers_needed(0.99) == 299


@pytest.mark.parametrize(
    ("right", "unsure_half", "target", "told"),
    [
        (1000, 0, 0.99, ""),
        (200, 0, 0.98, "99% would take about 300 validation images or more"),
        (150, 50, 0.98, "99% would take about 400 validation images or more"),
        (400, 500, 0.9, "99% would make 44.4% of the validation images sure"),
        (20, 0, 0.9, "99% would take about 300 validation images or more"),
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
    assert (block["target"], block["suggested"]) == (0.99, 0.95)
    assert row_of(0.99, block)["val"]["coverage"] < 0.1
    assert about_others(block) == "95% (--abstain 0.95) would make 100.0% of the validation images sure"
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
