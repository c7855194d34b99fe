import pytest
import torch

import warm
from headstart.compute.device import pick_device
from headstart.compute.memory import peak_memory_mb
from headstart.errors import InputError


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="best device here"):
        pick_device("cuda:99")


def grow():
    # Pages that a forked process shares with the other count as well, so that now is its peak.
    before = peak_memory_mb()
    block = torch.ones(100_000_000 // 4)
    print(peak_memory_mb() - before)
    del block


def test_peak_memory_grows_with_use():
    """In a process of its own, since the peak of this one may lie far behind."""
    done = warm.Warm(grow).wait()
    assert 99 < float(done.stdout) < 150, done.stderr
