import errno
import hashlib
import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from headstart import files
from headstart.errors import TrainingError
from headstart.training.checkpoint import (
    KEEP,
    newest_checkpoint,
    read_checkpoints,
    under_prefix,
    with_prefix,
    write_checkpoint,
)


def tensors():
    return {"model.a": torch.arange(6.0).reshape(2, 3), "optimizer.0.step": torch.tensor(7.0)}


def test_what_is_read_is_what_was_written(tmp_path):
    numbers = {"loss_sum": 0.1 + 0.2, "history": [{"epoch": 1}]}
    path = write_checkpoint(tmp_path, step=5, tensors=tensors(), numbers=numbers)
    [(read_path, read, read_numbers)] = read_checkpoints(tmp_path)
    assert read_path == path
    assert read_numbers == numbers
    assert read.keys() == tensors().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())


def test_layers_that_share_their_weights_are_kept_each_for_itself(tmp_path):
    shared = torch.arange(6.0)
    write_checkpoint(tmp_path, step=1, tensors={"first": shared, "second": shared, "part": shared[:3]}, numbers={})
    [checkpoint] = read_checkpoints(tmp_path)
    assert {name: tensor.tolist() for name, tensor in checkpoint.tensors.items()} == {
        "first": [0, 1, 2, 3, 4, 5],
        "second": [0, 1, 2, 3, 4, 5],
        "part": [0, 1, 2],
    }


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 9, 10):
        write_checkpoint(tmp_path, step=step, tensors=tensors(), numbers={})
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == [9, 10]
    assert KEEP == 2


def test_a_later_one_that_was_passed_over_makes_room(tmp_path):
    """Two damaged ones of later steps must not count as the newest two, or every good one would go at once."""
    for step in (3, 90, 91):
        write_checkpoint(tmp_path, step=step, tensors=tensors(), numbers={})
    for path in tmp_path.glob("step-00000009*"):
        path.write_bytes(b"")
    write_checkpoint(tmp_path, step=4, tensors=tensors(), numbers={"good": True})
    write_checkpoint(tmp_path, step=5, tensors=tensors(), numbers={"good": True})
    assert [checkpoint.numbers for checkpoint in read_checkpoints(tmp_path)] == [{"good": True}] * 2
    assert len(list(tmp_path.iterdir())) == KEEP


@pytest.mark.parametrize("damage", ["flip a bit", "cut short", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, damage):
    good = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={"good": True})
    bad = write_checkpoint(tmp_path, step=2, tensors=tensors(), numbers={})
    content = bytearray(bad.read_bytes())
    if damage == "flip a bit":
        content[-1] ^= 1
    bad.write_bytes(b"" if damage == "empty" else content[: len(content) // 2] if damage == "cut short" else content)
    assert newest_checkpoint(tmp_path) == good
    assert [checkpoint.path for checkpoint in read_checkpoints(tmp_path)] == [good]
    assert bad.name in caplog.text


def raw(folder, content, step=2):
    """Write a file whose name has the hash of its content, as only a checkpoint should have."""
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    path.write_bytes(content)
    return path


def header(content):
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 40,
        header(b"{"),
        header(b"\xff\xfe"),
        header(b"{}"),
        header(b'{"__metadata__": null}'),
        header(b'{"__metadata__": {"numbers": "[1]"}}'),
        header(b'{"__metadata__": {"numbers": "{"}}'),
        header(b'{"__metadata__": {"numbers": 3}}'),
        header(b'{"__metadata__": {"numbers": "' + b"[" * 100_000 + b'"}}'),
        header(b'{"__metadata__": {"numbers": "{}"}, "a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}}'),
        header(b'{"__metadata__": {"numbers": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
    ],
)
def test_an_odd_file_with_the_right_hash_is_passed_over_and_named(tmp_path, caplog, content):
    good = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={})
    odd = raw(tmp_path, content)
    assert [checkpoint.path for checkpoint in read_checkpoints(tmp_path)] == [good]
    assert odd.name in caplog.text


def test_a_file_that_can_not_be_read_is_passed_over_and_named(tmp_path, caplog, monkeypatch):
    good = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={})
    forbidden = write_checkpoint(tmp_path, step=2, tensors=tensors(), numbers={})
    (tmp_path / "step-000000003-0.safetensors").mkdir()
    read = Path.read_bytes

    def refuse(path):
        if path == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [checkpoint.path for checkpoint in read_checkpoints(tmp_path)] == [good]
    assert newest_checkpoint(tmp_path) == good
    assert forbidden.name in caplog.text
    assert "Permission denied" in caplog.text


def test_a_file_that_does_not_fit_into_memory_is_passed_over_and_named(tmp_path, caplog, monkeypatch):
    huge = write_checkpoint(tmp_path, step=1, tensors=tensors(), numbers={})
    monkeypatch.setattr(Path, "read_bytes", mock.Mock(side_effect=MemoryError))
    assert list(read_checkpoints(tmp_path)) == []
    assert newest_checkpoint(tmp_path) is None
    assert f"{huge.name} can't be read (it does not fit into memory)" in caplog.text


def test_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert list(read_checkpoints(tmp_path)) == []


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
    [checkpoint] = read_checkpoints(tmp_path)
    assert checkpoint.path == path
    assert json.dumps(checkpoint.numbers) == json.dumps(numbers)
