import errno
import json

import pytest
import torch

from headstart import files
from headstart.errors import TrainingError
from headstart.training.checkpoint import (
    KEEP,
    newest_checkpoint,
    read_checkpoint,
    under_prefix,
    with_prefix,
    write_checkpoint,
)


def tensors():
    return {"model.a": torch.arange(6.0).reshape(2, 3), "optimizer.0.step": torch.tensor(7.0)}


def test_what_is_read_is_what_was_written(tmp_path):
    numbers = {"loss_sum": 0.1 + 0.2, "history": [{"epoch": 1}]}
    path = write_checkpoint(tmp_path, step=5, tensors=tensors(), numbers=numbers)
    read, read_numbers = read_checkpoint(path)
    assert read_numbers == numbers
    assert read.keys() == tensors().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9):
        write_checkpoint(tmp_path, step=step, tensors=tensors(), numbers={})
    kept = sorted(path.name.split("-")[1] for path in tmp_path.iterdir())
    assert len(kept) == KEEP
    assert newest_checkpoint(tmp_path).name.startswith("step-000000010")


@pytest.mark.parametrize("damage", ["flip a bit", "cut short", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, damage):
    good = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={"good": True})
    bad = write_checkpoint(tmp_path, step=2, tensors=tensors(), numbers={})
    content = bytearray(bad.read_bytes())
    if damage == "flip a bit":
        content[-1] ^= 1
    bad.write_bytes(b"" if damage == "empty" else content[: len(content) // 2] if damage == "cut short" else content)
    assert newest_checkpoint(tmp_path) == good
    assert bad.name in caplog.text


def test_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    good = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*step-000000001.*--resume"):
        write_checkpoint(tmp_path, step=2, tensors=tensors(), numbers={})
    assert list(tmp_path.iterdir()) == [good]
    assert newest_checkpoint(tmp_path) == good


def test_prefixes_are_taken_off_again():
    assert under_prefix("ema", with_prefix("ema", tensors()) | {"other.x": torch.zeros(1)}).keys() == tensors().keys()


def test_numbers_survive_to_the_last_bit(tmp_path):
    numbers = {"value": 1 / 3}
    path = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers=numbers)
    assert json.dumps(read_checkpoint(path)[1]) == json.dumps(numbers)
