"""What abstaining buys, counted on answers whose outcome is known."""

import pytest

from headstart.report.coverage import THRESHOLDS, coverage
from headstart.runs.predictions import PredictionRow


def rows(*answers):
    return [
        PredictionRow(i, "", "cat", "cat" if right else "dog", probability)
        for i, (probability, right) in enumerate(answers)
    ]


def test_each_threshold_counts_what_is_answered_and_what_is_wrong():
    found = coverage(rows((0.99, True), (0.97, False), (0.55, True), (0.52, False), (0.3, False)))
    table = {row.probability: (row.classified, row.wrong, row.accuracy) for row in found["rows"]}
    assert list(table) == list(THRESHOLDS)
    assert table[0.0] == (5, 3, pytest.approx(0.4))
    assert table[0.5] == (4, 2, 0.5)
    assert table[0.6] == table[0.95] == (2, 1, 0.5)
    assert table[0.99] == (1, 0, 1.0), "a probability that equals the threshold is answered"
    assert [row.coverage for row in found["rows"]][:2] == [1.0, 0.8]


def test_nothing_answered_has_no_accuracy():
    last = coverage(rows((0.4, True), (0.3, False)))["rows"][-1]
    assert (last.classified, last.accuracy) == (0, None)


def test_a_target_is_met_by_the_most_that_can_be_answered():
    answers = [(1 - i / 1000, True) for i in range(90)] + [(0.5 - i / 1000, i % 2 == 0) for i in range(20)]
    targets = coverage(rows(*answers))["targets"]
    assert [target for target, _, _ in targets] == [0.95, 0.98]
    target, share, probability = targets[1]
    answered = [right for p, right in answers if p >= probability]
    assert len(answered) / len(answers) == pytest.approx(share)
    assert sum(answered) / len(answered) >= target
    following = [right for p, right in answers if p >= probability - 0.0015]
    assert sum(following) / len(following) < target


def test_images_of_one_probability_stand_or_fall_together():
    """Sorting must not put the right ones of equals first and promise their accuracy."""
    assert coverage(rows((0.9, True), (0.9, True), (0.9, False), (0.9, False)))["targets"] == []


def test_curve_is_drawn_for_one_image_and_for_many():
    assert coverage(rows((0.9, True)))["chart"].series[0].points
    many = coverage(rows(*[(1 - i / 5000, i % 7 > 0) for i in range(4000)]))["chart"]
    (curve,) = many.series
    assert 150 < len(curve.points) <= 200
    assert all(many.box.left <= x <= many.box.right and many.box.top <= y <= many.box.bottom for x, y in curve.points)
    assert [text for *_, text in many.marks][:1] == ["50%"]


@pytest.mark.parametrize("right", [True, False])
def test_an_axis_never_goes_beyond_what_a_share_can_be(right):
    ticks = coverage(rows(*[(0.9 - i / 100, right) for i in range(40)]))["chart"].y_ticks
    assert len(ticks) > 2
    assert all(0 <= float(tick.text.removesuffix("%")) <= 100 for tick in ticks)
