import itertools

import pytest

from headstart.training.schedule import rate_factor


def test_rise_then_cosine():
    factors = [rate_factor(step, steps=100, warmup=0.1, decay="cosine") for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] < 0.001
    assert all(earlier > later for earlier, later in itertools.pairwise(factors[10:]))


def test_constant_after_the_rise():
    factors = [rate_factor(step, steps=10, warmup=0.2, decay="constant") for step in range(10)]
    assert factors == [0.5] + [1.0] * 9


def test_without_warmup_the_first_step_is_at_the_peak():
    assert rate_factor(0, steps=10, warmup=0.0, decay="cosine") == 1.0
