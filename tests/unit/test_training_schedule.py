import itertools

import pytest

from headstart.training.schedule import Schedule


def test_rise_then_cosine():
    schedule = Schedule(peak=2.0, steps=100, warmup=0.1, decay="cosine")
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.002
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[10:]))


def test_constant_after_the_rise():
    schedule = Schedule(peak=1.0, steps=10, warmup=0.2, decay="constant")
    assert [schedule.rate(step) for step in range(10)] == [0.5] + [1.0] * 9


def test_without_warmup_the_first_step_is_at_the_peak():
    assert Schedule(peak=3e-4, steps=10, warmup=0.0, decay="cosine").rate(0) == 3e-4
