"""A session sets the process up and puts everything back."""

import os
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from headstart.compute.session import open_session
from headstart.errors import InputError


def test_the_callers_process_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    def fails():
        with open_session(command="x", threads=threads + 1) as session:
            assert session.threads == torch.get_num_threads() == threads + 1
            assert torch.backends.cudnn.deterministic
            torch.manual_seed(5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.parametrize("threads", [0, -1, 2**31])
def test_a_number_of_threads_that_can_not_be_is_refused(threads):
    with pytest.raises(InputError, match=str(threads)), open_session(command="x", threads=threads):
        pass


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="cuda:99"), open_session(command="x", device="cuda:99"):
        pass


def test_one_of_several_gpus_is_recorded_as_that_one():
    simulated = {"pick_device": torch.device, "describe_hardware": lambda device: str(device)}
    with (
        mock.patch.multiple("headstart.compute.session", **simulated),
        mock.patch("torch.random.fork_rng", nullcontext),
        open_session(command="x", device="cuda:1") as session,
    ):
        assert session.device == torch.device("cuda", 1)
        found = session.surroundings(())
    assert (found["device"], found["hardware"]) == ("cuda:1", "cuda:1")
