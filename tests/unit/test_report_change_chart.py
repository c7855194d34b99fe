"""Changes with their intervals on a drawing."""

from headstart.report.change_chart import MOST_LINES, change_chart


def test_a_change_lies_within_its_interval_and_says_in_which_direction_it_is_clear():
    chart = change_chart([("up", 0.02, 0.01, 0.03), ("down", -0.02, -0.03, -0.01), ("unclear", 0.01, -0.01, 0.03)])
    assert [row.direction for row in chart.rows] == ["up", "down", "unclear"]
    assert [row.text for row in chart.rows] == ["+2.00", "-2.00", "+1.00"]
    assert all(row.low_x < row.x < row.high_x for row in chart.rows)
    assert chart.rows[1].x < chart.zero < chart.rows[0].x
    assert chart.hidden == 0


def test_of_many_changes_the_largest_are_drawn_in_the_order_given():
    changes = [(f"class {i}", (-1) ** i * i / 1000, -0.5, 0.5) for i in range(1000)]
    chart = change_chart(changes)
    assert [row.full_name for row in chart.rows] == [f"class {i}" for i in range(1000 - MOST_LINES, 1000)]
    assert chart.hidden == 1000 - MOST_LINES


def test_of_many_equal_changes_some_are_drawn():
    chart = change_chart([(f"class {i}", 0.0, -0.1, 0.1) for i in range(100)])
    assert (len(chart.rows), chart.hidden) == (MOST_LINES, 100 - MOST_LINES)
