"""Drift is nothing for the same images, grows with the difference, and is not made by rounding."""

import numpy as np
import pytest

from headstart.tasks.confidence import FEWEST, Confidence, confidence_of


def drawn(strength, n=2000, seed=0):
    """Probabilities of predicted classes of a classifier that is the surer, the larger the strength."""
    return np.random.default_rng(seed).beta(strength, 1, n).astype(np.float32)


def test_the_bins_hold_as_many_images_each():
    reference = confidence_of(drawn(8))
    assert len(reference.edges) == 9
    assert reference.counts == pytest.approx([200] * 10, abs=2)
    assert list(reference.edges) == sorted(reference.edges)


def test_drift_grows_with_the_difference():
    reference = confidence_of(drawn(8))
    same, less_sure, much_less_sure, surer = (
        reference.drift(drawn(strength, 1000, seed=1)) for strength in (8, 5, 2, 20)
    )
    assert 0 <= same < 0.03
    assert 0.05 < less_sure < much_less_sure
    assert much_less_sure > 0.5
    assert surer > 0.25


def test_the_index_is_the_one_of_the_formula():
    reference = Confidence(edges=[0.5], counts=[30, 70])
    half = np.repeat(np.float32([0.2, 0.8]), 50)
    expected, found = np.array([30.5, 70.5]) / 101, np.array([50.5, 50.5]) / 101
    assert reference.drift(half) == pytest.approx(np.sum((found - expected) * np.log(found / expected)))


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_probabilities_near_one_are_not_told_apart(share):
    sure = np.where(np.arange(1000) < 1000 * share, np.float32(1), drawn(4, 1000))
    rounded = np.where(sure == 1, np.float32(1 - 6e-8), sure)
    assert confidence_of(sure).drift(rounded) == pytest.approx(0, abs=1e-12)


def test_few_images_are_no_reference():
    assert confidence_of(drawn(8, FEWEST - 1)) is None
    assert sum(confidence_of(drawn(8, FEWEST)).counts) == FEWEST
