import pytest
import torch

from headstart.compute.device import pick_device
from headstart.compute.memory import peak_memory_mb
from headstart.errors import InputError


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="best device here"):
        pick_device("cuda:99")


def test_peak_memory_grows_with_use():
    before = peak_memory_mb()
    block = torch.ones(int(before * 1e6 / 4) + 50_000_000 // 4)
    assert peak_memory_mb() > before + 20
    del block
