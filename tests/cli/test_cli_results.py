"""The lines that a finished training prints."""

from pathlib import Path

import numpy as np

from headstart.cli.results import result_lines
from headstart.tasks.abstention import Judgement, measure_abstention
from headstart.tasks.single_label import SINGLE_LABEL


def test_averages_over_classes_come_first_where_classes_are_uneven():
    def lines(labels):
        logits = 5 * np.eye(2, dtype=np.float32)[np.zeros(len(labels), dtype=int)]
        test = SINGLE_LABEL.measure(logits, labels, names=("cat", "okapi"), temperature=1.0)
        return result_lines({"test": test.to_dict()}, Path("run")).splitlines()

    uneven = lines(np.array([0] * 90 + [1] * 10))
    assert "50.00% balanced accuracy" in uneven[0]
    assert "macro F1" in uneven[0]
    assert "10 to 90" in uneven[0]
    assert "90.00% accuracy" in uneven[1]
    assert "accuracy" in lines(np.array([0] * 50 + [1] * 50))[0]
    assert "balanced" not in lines(np.array([0] * 50 + [1] * 50))[0]


def test_how_much_is_sure_is_told_with_what_another_target_would_take():
    def line(target, val, test):
        block = measure_abstention(target, *(Judgement(np.array(p), np.array(right, bool)) for p, right in (val, test)))
        logits = 5 * np.eye(2, dtype=np.float32)
        figures = SINGLE_LABEL.measure(logits, np.arange(2), names=("cat", "okapi"), temperature=1.0).to_dict()
        lines = result_lines({"test": figures, "abstention": block}, Path("run")).splitlines()
        return next(line for line in lines if line.startswith("Sure"))

    sure, half = ([0.9] * 200, [True] * 200), ([0.9, 0.2] * 100, [True, False] * 100)
    told = line(None, sure, half)
    assert "50.0% of the test images" in told
    assert "100.00% of them are right (set for 99% on validation)" in told
    assert "below" not in told
    wrong = ([0.9] * 100, [True] * 90 + [False] * 10)
    assert "90.00% of them are right, below its target (set for 99%" in line(None, sure, wrong)
    some = ([0.9] * 100, [True] * 100)
    assert "(set for 98% on validation; 99% would take about 160 validation images or more)" in line(None, some, half)
    assert "none: validation shows 99% for no threshold" in line(0.99, some, half)
    assert "; 98% (--abstain 0.98) would make 100.0%" in line(0.99, some, half)
    nothing = line(None, sure, ([0.2] * 9, [True] * 9))
    assert "0.0% of the test images" in nothing
    assert "are right" not in nothing
