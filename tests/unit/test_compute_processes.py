import sys

import pytest
import torch

import warm
from headstart.compute.processes import Processes, joined_processes, own_device
from headstart.errors import InputError, TrainingError


def talk():
    with joined_processes() as processes:
        total = processes.sum(torch.tensor([1.0, processes.rank])).tolist()
        print(processes.is_main, total, processes.any(processes.rank == 1), processes.any(False))
        processes.barrier()
        if processes.rank == 1:
            sys.exit(3)
        try:
            processes.barrier()
        except TrainingError as error:
            print("TrainingError", error)


def test_processes_add_up_and_end_together():
    first, second = warm.together(talk)
    assert (first.returncode, second.returncode) == (0, 3), first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == "True [2.0, 1.0] True False"
    assert second.stdout.splitlines() == ["False [2.0, 1.0] True False"]
    assert lines[1].startswith("TrainingError Process 0 of 2")


def test_a_single_process_asks_nobody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    # Schedulers of clusters set this for programs that torchrun did not start.
    monkeypatch.setenv("WORLD_SIZE", "8")
    with joined_processes() as processes:
        assert processes == Processes(rank=0, world=1)
        assert processes.is_main
        assert processes.sum(torch.ones(2)).tolist() == [1, 1]
        assert (processes.any(True), processes.any(False)) == (True, False)
        processes.barrier()
        with pytest.raises(RuntimeError, match="gloo"), processes.connected():
            raise RuntimeError("gloo")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("rank", "world", "told"), [("2", "2", "RANK is 2"), ("0", "two", "'WORLD_SIZE': 'two'")])
def test_numbers_that_make_no_sense_are_refused(monkeypatch, rank, world, told):
    settings = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=told), joined_processes():
        pass


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    several = Processes(rank=11, world=16)
    assert [own_device(name, several) for name in (None, "cuda", "cpu", "cuda:0")] == [
        "cuda:3",
        "cuda:3",
        "cpu",
        "cuda:0",
    ]
    assert own_device(None, Processes()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (own_device(None, several), own_device("cuda", several)) == ("cpu", "cuda")
