import pytest
import torch
from torch import nn

from headstart.compute.device import pick_device
from headstart.compute.memory import peak_memory_mb
from headstart.compute.precision import choose_arithmetic
from headstart.errors import InputError, RecipeError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def test_a_fixed_choice_is_not_timed(network):
    chosen = choose_arithmetic(network, torch.randn(2, 3, 8, 8), precision="fp32", memory_format="contiguous")
    assert (chosen.precision, chosen.memory_format, chosen.milliseconds) == ("fp32", "contiguous", {})


def test_auto_keeps_the_fastest_and_changes_no_weight(network):
    before = [parameter.clone() for parameter in network.parameters()]
    chosen = choose_arithmetic(network, torch.randn(2, 3, 8, 8), precision="fp32", memory_format="auto")
    assert set(chosen.milliseconds) == {"fp32 contiguous", "fp32 channels_last"}
    fastest = min(chosen.milliseconds.values())
    assert chosen.milliseconds[f"{chosen.precision} {chosen.memory_format}"] == fastest
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_fp16_on_a_cpu_is_refused(network):
    with pytest.raises(RecipeError, match="needs a GPU"):
        choose_arithmetic(network, torch.randn(1, 3, 8, 8), precision="fp16", memory_format="auto")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="best device here"):
        pick_device("cuda:99")


def test_peak_memory_grows_with_use():
    before = peak_memory_mb()
    block = torch.ones(int(before * 1e6 / 4) + 50_000_000 // 4)
    assert peak_memory_mb() > before + 20
    del block
