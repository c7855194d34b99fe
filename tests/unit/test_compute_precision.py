import json

import numpy as np
import pytest
import torch
from torch import nn

from headstart.compute import precision
from headstart.compute.device import describe_hardware
from headstart.compute.precision import check_precision, choose_arithmetic, full_float32, laid_out
from headstart.compute.session import open_session
from headstart.contracts import ClassNames
from headstart.errors import RecipeError
from headstart.inference.torch_artifact import TorchArtifact
from made_run import random_bundle

SPEEDS = {("fp32", "contiguous"): 4.0, ("fp32", "channels_last"): 3.0}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture
def speeds(monkeypatch, own_home):
    """Seconds of a step with each arithmetic, to be changed by the test; how often steps were timed."""
    seconds, asked = dict(SPEEDS), []

    def step(module, images, arithmetic):
        asked.append((arithmetic.precision, arithmetic.memory_format))
        return seconds[asked[-1]]

    monkeypatch.setattr(precision, "_step_seconds", step)
    monkeypatch.setattr(precision, "_computes_bf16", lambda _: True)
    return seconds, asked


def choose(network, **options):
    size = options.pop("size", 8)
    settings = {"architecture": "tiny", "precision": "auto", "memory_format": "auto"} | options
    return choose_arithmetic(network, torch.randn(2, 3, size, size), **settings)


def test_a_fixed_choice_is_not_timed(network, speeds):
    chosen = choose(network, precision="fp32", memory_format="contiguous")
    assert (chosen.precision, chosen.memory_format, chosen.milliseconds) == ("fp32", "contiguous", {})
    assert speeds[1] == []


def test_tensors_that_have_no_such_format_stay_as_they_are():
    """Lambda networks hold convolutions over volumes."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(1, 2, (1, 3, 3)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert laid_out(network, torch.channels_last) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_auto_keeps_the_fastest_and_changes_no_weight(network, own_home):
    before = [parameter.clone() for parameter in network.parameters()]
    chosen = choose(network, precision="fp32")
    assert set(chosen.milliseconds) == {"fp32 contiguous", "fp32 channels_last"}
    fastest = min(chosen.milliseconds.values())
    assert chosen.milliseconds[f"{chosen.precision} {chosen.memory_format}"] == fastest
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("bf16", "chosen"), [(2.7, "fp32"), (2.62, "fp32"), (2.58, "bf16"), (1.0, "bf16")])
def test_precision_changes_only_for_a_gain_above_15_percent(network, speeds, bf16, chosen):
    speeds[0].update({("bf16", "contiguous"): bf16, ("bf16", "channels_last"): 9.0})
    found = choose(network)
    assert (found.precision, found.memory_format) == {
        "fp32": ("fp32", "channels_last"),
        "bf16": ("bf16", "contiguous"),
    }[chosen]
    assert found.milliseconds["bf16 contiguous"] == pytest.approx(bf16 * 1e3 / 2)


def test_what_was_chosen_is_remembered_whatever_the_clock_says_later(network, speeds, own_home):
    seconds, asked = speeds
    seconds.update({("bf16", "contiguous"): 1.0, ("bf16", "channels_last"): 2.0})
    first, timed = choose(network), len(asked)
    seconds.update({key: 1 / value for key, value in seconds.items()})
    assert choose(network) == first
    assert len(asked) == timed
    # Anything that decides which is fastest has a memory of its own.
    assert choose(network, size=9) != first
    assert choose(network, architecture="other") != first
    assert choose(network, precision="fp32").precision == "fp32"
    network[0].weight.requires_grad_(False)
    assert choose(network) != first
    assert len(list((own_home / "arithmetic").iterdir())) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\xff{",
        lambda _: b"[" * 100_000,
        lambda content: json.dumps(content | {"key": content["key"] | {"architecture": "other"}}).encode(),
        lambda content: json.dumps(content | {"chosen": content["chosen"] | {"precision": "fp64"}}).encode(),
        lambda content: json.dumps(content | {"chosen": content["chosen"] | {"precision": "fp16"}}).encode(),
        lambda content: json.dumps(content | {"chosen": 3}).encode(),
        lambda _: json.dumps([]).encode(),
    ],
)
def test_a_damaged_memory_is_measured_again(network, speeds, own_home, damage):
    seconds, asked = speeds
    seconds.update({("bf16", "contiguous"): 1.0, ("bf16", "channels_last"): 2.0})
    choose(network)
    [memory] = (own_home / "arithmetic").iterdir()
    memory.write_bytes(damage(json.loads(memory.read_text())))
    seconds[("bf16", "contiguous")] = 2.9
    timed = len(asked)
    assert choose(network).memory_format == "channels_last"
    assert len(asked) > timed
    assert json.loads(memory.read_text())["chosen"]["memory_format"] == "channels_last"


def test_a_cache_that_can_not_be_written_does_not_stop_a_run(network, speeds, own_home):
    own_home.parent.mkdir(exist_ok=True)
    own_home.write_text("a file, where a folder should be")
    assert choose(network, precision="fp32").memory_format == "channels_last"


def test_fp16_on_a_cpu_is_refused(network):
    with pytest.raises(RecipeError, match=r"needs a GPU.*fp32, bf16"):
        check_precision("fp16", torch.device("cpu"))
    check_precision("bf16", torch.device("cpu"))
    check_precision("fp16", torch.device("cuda"))


def test_float32_is_not_rounded_to_tf32_and_a_session_puts_back_what_it_found(monkeypatch):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    assert before[0], "torch rounds by default"
    with open_session(command="a test", device="cpu", progress=False):
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
        assert describe_hardware(torch.device("cuda:1"))["tf32"] is False
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before
    assert describe_hardware(torch.device("cuda:1"))["tf32"] is True
    assert "tf32" not in describe_hardware(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before
    first, second = full_float32(), full_float32()  # of two threads
    for step in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
        step()
        assert not cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before
    try:
        cudnn.conv.fp32_precision = "ieee"  # after which torch refuses to tell the flags
        with full_float32():
            assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")
    finally:
        cudnn.conv.fp32_precision = "tf32"
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before


def test_a_classifier_on_a_gpu_computes_in_float32(monkeypatch):
    artifact, seen, move = TorchArtifact(random_bundle(ClassNames(("cat", "dog"))), device="cpu"), [], torch.Tensor.to
    artifact.device = gpu = torch.device("cuda")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to: self if to[0] is gpu else move(self, *to))
    artifact._network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    artifact.outputs(np.zeros((1, 40, 40, 3), np.uint8))
    assert seen == [False, False], "an image and its mirror image"
    assert torch.backends.cudnn.allow_tf32


def test_timing_on_a_mac_waits_for_its_gpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    precision._wait(torch.device("mps"))
    precision._wait(torch.device("cpu"))
    assert waited == ["mps"]
