"""The loss against numbers worked out by hand, and the score that selects an epoch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headstart.tasks.single_label import SINGLE_LABEL, cross_entropy

LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [0.0, 0.0]])
"""Softmax: (3/4, 1/4), (1/4, 3/4), (1/2, 1/2)."""


def one_hot(labels):
    return F.one_hot(torch.tensor(labels), 2).float()


def test_the_loss_is_the_mean_negative_log_likelihood():
    expected = (math.log(4 / 3) + math.log(4) + math.log(2)) / 3
    assert cross_entropy(LOGITS, torch.tensor([0, 0, 1])).item() == pytest.approx(expected)
    assert cross_entropy(LOGITS, one_hot([0, 0, 1])).item() == pytest.approx(expected)


def test_smoothing_spreads_a_share_of_the_target_over_all_classes():
    # Target (0.9, 0.1): 0.2 of it is spread over two classes.
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    for targets in (torch.tensor([0]), one_hot([0])):
        assert cross_entropy(LOGITS[:1], targets, label_smoothing=0.2).item() == pytest.approx(expected)


def test_class_weights_make_a_weighted_mean_whatever_the_kind_of_target():
    weights = torch.tensor([1.0, 10.0])
    expected = (math.log(4 / 3) + math.log(4) + 10 * math.log(2)) / 12
    for targets in (torch.tensor([0, 0, 1]), one_hot([0, 0, 1])):
        assert cross_entropy(LOGITS, targets, class_weights=weights).item() == pytest.approx(expected)


def test_class_weights_of_one_factor_change_nothing_for_mixed_targets():
    mixed = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    plain = cross_entropy(LOGITS, mixed, label_smoothing=0.1)
    weighted = cross_entropy(LOGITS, mixed, label_smoothing=0.1, class_weights=torch.tensor([7.0, 7.0]))
    assert weighted.item() == pytest.approx(plain.item())


def test_figures_are_those_of_the_probabilities_that_a_classifier_computed_itself():
    given = np.array([[0.2, 0.8], [0.1, 0.9], [0.0, 1.0]], np.float32)
    labels = np.array([0, 1, 0])
    found, plain = (SINGLE_LABEL.measure(LOGITS.numpy(), labels, names="ab", given=p) for p in (given, None))
    assert (found.confusion_matrix, plain.confusion_matrix) == ([[0, 2], [0, 1]], [[2, 0], [0, 1]])
    # float32 has no smaller number than 2 ** -149.
    assert found.nll_calibrated == pytest.approx(-(math.log(0.2) + math.log(0.9) + math.log(2.0**-149)) / 3, abs=1e-5)
    assert (found.nll, found.ece) == (plain.nll, plain.ece)
    assert found.ece_calibrated > plain.ece_calibrated


def test_the_task_calibrates_with_six_decimals():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 3)), generator.integers(0, 3, 50)
    found = SINGLE_LABEL.calibrate(logits, labels)
    assert found == round(found, 6) != 1.0
