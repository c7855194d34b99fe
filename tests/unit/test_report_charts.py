import math
from itertools import pairwise

import pytest

from headstart.report import charts, curves


@pytest.mark.parametrize(
    ("low", "high"), [(0.83, 0.942), (0.0, 1.0), (0.2211, 0.8123), (1e-4, 3e-4), (0.5, 0.5), (0.0, 0.0), (3.0, 1200.0)]
)
def test_ticks_are_round_even_and_enclose_the_values(low, high):
    ticks = charts.nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 9
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-6


def test_labels_that_collide_are_moved_apart_and_keep_their_order():
    assert charts.spread([100.0, 103.0], gap=15.0) == [100.0, 115.0]
    assert charts.spread([103.0, 100.0], gap=15.0) == [115.0, 100.0]
    assert charts.spread([10.0, 50.0], gap=15.0) == [10.0, 50.0]


def test_curves_lie_inside_the_axes_and_higher_is_better_drawn():
    values = {"train": [0.5, 0.7, 0.9], "validation": [0.6, 0.8, 0.7]}
    chart = curves.line_chart([1, 2, 3], values, kept_epoch=2, number=str)
    for series in chart.series:
        for x, y in series.points:
            assert chart.box.left <= x <= chart.box.right
            assert chart.box.top <= y <= chart.box.bottom
    train = chart.series[0]
    assert train.points[0][0] < train.points[1][0] < train.points[2][0]
    assert train.points[0][1] > train.points[1][1] > train.points[2][1]
    assert chart.kept is not None
    assert (chart.kept.place, chart.kept.text) == (chart.series[1].points[1][0], "best: 2")


@pytest.mark.parametrize("best", [None, 0, 9])
def test_an_epoch_that_is_not_there_is_not_marked(best):
    assert curves.line_chart([1, 2], {"train": [1.0, 0.5]}, kept_epoch=best, number=str).kept is None


def test_one_epoch_makes_a_chart():
    chart = curves.line_chart([1], {"train": [0.5], "validation": [0.5]}, kept_epoch=1, number=str)
    assert all(math.isfinite(value) for series in chart.series for point in series.points for value in point)


def test_many_epochs_do_not_crowd_the_axis():
    epochs = list(range(1, 201))
    chart = curves.line_chart(epochs, {"train": [1 / e for e in epochs]}, kept_epoch=200, number=str)
    assert len(chart.x_ticks) <= 10


def test_a_matrix_has_its_true_classes_in_rows_and_colours_mistakes_on_a_scale_of_their_own():
    chart = charts.matrix([[98, 2], [0, 50]], ["cat", "dog"])
    cells = {
        (round((c.y - chart.box.top) / chart.side), round((c.x - chart.box.left) / chart.side)): c for c in chart.cells
    }
    assert set(cells) == {(0, 0), (0, 1), (1, 1)}, "empty cells are not drawn"
    assert (cells[0, 1].count, cells[0, 1].right, cells[0, 1].strength) == (2, False, 1.0)
    assert (cells[0, 0].right, cells[0, 0].strength) == (True, 0.98)
    assert [cells[place].share for place in ((0, 0), (0, 1), (1, 1))] == [0.98, 0.02, 1.0]


def test_a_class_without_images_and_a_matrix_without_mistakes_are_drawn():
    chart = charts.matrix([[5, 0, 0], [0, 0, 0], [0, 0, 7]], ["a", "b", "c"])
    assert [cell.count for cell in chart.cells] == [5, 7]


def test_large_matrices_lose_their_numbers_then_their_names():
    def kind(n):
        chart = charts.matrix([[int(i == j) for j in range(n)] for i in range(n)], [f"class {i}" for i in range(n)])
        return chart.counts_shown, chart.labels_shown

    assert [kind(10), kind(30), kind(100)] == [(True, True), (False, True), (False, False)]


def test_reliability_puts_an_honest_bin_on_the_diagonal_and_leaves_empty_ones_out():
    honest = {"lower": 0.6, "upper": 0.8, "n": 30, "confidence": 0.7, "accuracy": 0.7, "accuracy_ci95": [0.5, 0.85]}
    empty = {"lower": 0.8, "upper": 1.0, "n": 0, "confidence": None, "accuracy": None, "accuracy_ci95": None}
    chart = charts.reliability_chart([empty, honest], [honest, empty])
    assert len(chart.before) == len(chart.after) == 1
    mark, box = chart.after[0], chart.box
    assert (mark.x - box.left) / (box.right - box.left) == pytest.approx(0.7)
    assert (box.bottom - mark.y) / (box.bottom - box.top) == pytest.approx(0.7)
    assert mark.high_y < mark.y < mark.low_y
    assert [bar.height for bar in chart.bars] == [pytest.approx(chart.strip.bottom - chart.strip.top), 0]


def test_bars_are_as_long_as_their_values_and_do_not_overlap():
    chart = charts.bar_chart(["cat", "dog"], {"precision": [0.5, 1.0], "recall": [0.25, 0.0]}, number=str)
    full = chart.box.right - chart.box.left
    assert [row.name for row in chart.rows] == ["cat", "dog"]
    assert [[width / full for _, _, width, _ in row.bars] for row in chart.rows] == [[0.5, 0.25], [1.0, 0.0]]
    assert [text for row in chart.rows for *_, text in row.bars] == ["0.5", "0.25", "1.0", "0.0"]
    tops = [y for row in chart.rows for _, y, _, _ in row.bars]
    assert all(below - above >= chart.thickness for above, below in pairwise(tops))
    assert tops[-1] + chart.thickness <= chart.box.bottom


def test_curves_over_any_quantity_share_one_scale_and_name_their_points():
    chart = curves.curve_chart(
        {"low": [(0, 0.5), (1, 0.4)], "high": [(0, 0.5), (1, 0.5)]},
        styles=["a", "b"],
        x_ticks={0: "none", 1: "all"},
        number=str,
        marks=[(1, 0.4, "here")],
    )
    low, high = chart.series
    assert (low.name, low.style, high.style) == ("low", "a", "b")
    assert low.points[0] == high.points[0]
    assert low.points[1][1] > high.points[1][1], "less is drawn lower"
    assert chart.marks == [(*low.points[1], "here")]
    assert [tick.text for tick in chart.x_ticks] == ["none", "all"]
    from_zero = curves.curve_chart({"a": [(0, 0.5)]}, styles=["a"], x_ticks={0: "", 1: ""}, number=str, y_also=0)
    assert from_zero.y_ticks[0].text == "0.0"
