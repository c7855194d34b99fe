import math

import numpy as np
import pytest

from headstart.errors import DataError
from headstart.tasks import calibration
from headstart.tasks.calibration import TEMPERATURE_BOUNDS, fit_temperature, judge, log_softmax, softmax
from headstart.tasks.measures import ece, reliability


def nll(logits, labels, temperature=1.0):
    return judge(np.asarray(logits), labels, temperature=temperature).loss.mean()


def drawn(temperature, n=4000, classes=5, seed=0):
    """Logits whose softmax at ``temperature`` is exactly how the labels were drawn."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(size=(n, classes)) * 2
    labels = np.array([generator.choice(classes, p=row) for row in softmax(honest)])
    return (honest * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 8.0])
def test_the_temperature_that_spoiled_the_logits_is_found(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    after = judge(logits, labels, temperature=found)
    assert ece(reliability(after.confidence, after.predicted == labels)) < 0.02


def test_no_other_temperature_is_likelier():
    logits, labels = drawn(3.0, n=500)
    found = fit_temperature(logits, labels)
    best = nll(logits, labels, found)
    for other in (*np.geomspace(*TEMPERATURE_BOUNDS, 50), found * 1.01, found / 1.01):
        assert nll(logits, labels, float(other)) >= best - 1e-9


@pytest.mark.parametrize("temperature", [0.1, 1.3, 15.0])
def test_a_general_minimiser_finds_the_same_temperature(temperature):
    from scipy.optimize import minimize_scalar

    logits, labels = drawn(temperature, n=300)
    found = minimize_scalar(
        lambda x: nll(logits, labels, math.exp(x)),
        bounds=[math.log(bound) for bound in TEMPERATURE_BOUNDS],
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, labels) == pytest.approx(math.exp(found.x), rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_a_split_without_mistakes_leaves_the_probabilities_alone(scale):
    logits = (np.eye(4) * scale).astype(np.float32)
    assert fit_temperature(logits, np.arange(4)) == 1.0


def test_a_split_of_mistakes_stops_at_the_bound():
    logits = np.eye(3, dtype=np.float32) * 100
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(TEMPERATURE_BOUNDS[1], rel=1e-3)


def test_one_extreme_mistake_among_many_is_survived():
    logits = np.zeros((100, 3), np.float32)
    logits[:, 0] = 1e6
    labels = np.zeros(100, int)
    labels[0] = 1
    assert TEMPERATURE_BOUNDS[0] <= fit_temperature(logits, labels) <= TEMPERATURE_BOUNDS[1]


def test_two_images_are_enough():
    assert np.isfinite(fit_temperature(np.array([[2.0, 1.0], [1.5, 1.0]], np.float32), np.array([0, 1])))


def test_softmax_bears_logits_that_overflow():
    logits = np.array([[1e38, -1e38], [0.0, 0.0], [-1e4, -1e4 + 1]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[1, 0], [0.5, 0.5], [0.268941, 0.731059]], atol=1e-6)
    assert np.isfinite(log_softmax(logits)).all()


def test_nll_is_in_nats_and_a_confident_mistake_costs_what_it_should():
    assert nll(np.zeros((3, 2)), np.array([0, 1, 0])) == pytest.approx(math.log(2))
    assert nll(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1])) == pytest.approx(math.log(8) / 2)
    # As a probability this would be 0, and its logarithm minus infinity.
    assert nll([[0.0, -5000.0]], np.array([1])) == 5000.0


def test_blocks_change_nothing(monkeypatch):
    logits, labels = drawn(2.0, n=300)
    whole = judge(logits, labels, temperature=2.0), fit_temperature(logits, labels), calibration.probabilities(logits)
    monkeypatch.setattr(calibration, "_ENTRIES", 64)
    parts = judge(logits, labels, temperature=2.0), fit_temperature(logits, labels), calibration.probabilities(logits)
    for one, other in zip(whole[0], parts[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert parts[1] == pytest.approx(whole[1], rel=1e-7)
    np.testing.assert_array_equal(whole[2], parts[2])
    np.testing.assert_array_equal(whole[2], softmax(logits).astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = np.zeros((3, 2), np.float32)
    logits[1, 0] = bad
    with pytest.raises(DataError, match="1 of 3 images are not finite"):
        fit_temperature(logits, np.zeros(3, int))


def test_no_images_are_refused():
    with pytest.raises(DataError, match="without images"):
        fit_temperature(np.zeros((0, 2), np.float32), np.zeros(0, int))
