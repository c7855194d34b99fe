"""The lines that a finished training prints."""

from pathlib import Path

import numpy as np

from headstart.cli.results import result_lines
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
