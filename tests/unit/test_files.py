"""Files are there whole or not at all, and locks keep processes apart."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from headstart.errors import BundleError, RunError, WriteError
from headstart.files import (
    alone,
    file_sha256,
    first_bytes,
    parse_json,
    read_bounded,
    reading,
    sync_folder,
    write_atomically,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    write_atomically(tmp_path / "a.txt", "one")
    write_atomically(tmp_path / "a.txt", b"two")
    assert (tmp_path / "a.txt").read_text() == "two"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "図" * 85], ids=["ascii", "two bytes", "three bytes"])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, "content")
    assert names(tmp_path) == [name]


def full(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_fails_the_work_and_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"a\.txt can't be written: No space left.*Free some space") as caught:
        write_atomically(path, "after")
    assert (caught.value.exit_status, caught.value.errno) == (1, errno.ENOSPC)
    assert isinstance(caught.value, OSError)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("path", ["gone/a.txt", "x" * 300])
def test_what_cant_be_written_is_named(tmp_path, path):
    with pytest.raises(WriteError, match="can't be written") as caught:
        write_atomically(tmp_path / path, "content")
    assert caught.value.filename == str(tmp_path / path)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"12345")
    assert read_bounded(path, at_most=5) == b"12345"
    os.truncate(path, 10**13)
    with pytest.raises(OSError, match="10,000,000 MB; at most 2 MB"):
        read_bounded(path, at_most=2_000_000)


def test_the_first_bytes_of_what_cant_be_read_are_none(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert first_bytes(tmp_path / "a", 2) == b"12"
    assert first_bytes(tmp_path, 2) == first_bytes(tmp_path / "gone", 2) == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes with names in folders")
def test_pipes_and_devices_are_neither_read_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        for read in (lambda path: read_bounded(path, at_most=10), file_sha256):
            with pytest.raises(OSError, match="a pipe or a device"):
                read(tmp_path / name)
        assert first_bytes(tmp_path / name, 2) == b""


@pytest.mark.parametrize(
    "content", ["NaN", "[-Infinity]", '{"a": 1e999}', "[" * 300 + "]" * 300, "[" * 10**5, "{", b"\xff", "9" * 5000]
)
def test_json_that_could_not_be_written_is_not_read(content):
    with pytest.raises(ValueError, match=r"finite|deep|Expecting|decode|integer"):
        parse_json(content)


def test_json_is_read_as_it_was_written(tmp_path):
    for value in ({"a": [1, 2.5, None, {"b": "x"}], "c": 1e300}, [], {}, 1e308, -1, "a", None, True):
        write_json(tmp_path / "a.json", value)
        assert parse_json((tmp_path / "a.json").read_bytes()) == value


def test_numbers_share_a_line_and_texts_stay_as_they_are(tmp_path):
    value = {"matrix": [[1, 0], [-2.5, 1e-7]], "texts": ["[\n  1,\n  2\n]", "[1,  2]"], "none": [], "mixed": [1, "a"]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert "[1, 0]" in text
    assert "[-2.5, 1e-07]" in text
    write_json(tmp_path / "a.json", [[0] * 1000] * 1000)
    assert (tmp_path / "a.json").stat().st_size < 3_100_000


def test_infinity_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("inf")})
    assert names(tmp_path) == []


def test_a_folder_is_flushed_where_that_is_possible(tmp_path, monkeypatch):
    sync_folder(tmp_path)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    sync_folder(tmp_path)
    assert flushed == [tmp_path.stat().st_ino]


def test_where_folders_cant_be_flushed_nothing_happens(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)

    def as_on_windows(path, _flags):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", as_on_windows)
    sync_folder(tmp_path)


def test_a_failing_disk_is_told(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match="Input/output error"):
        sync_folder(tmp_path)


def test_the_second_waits_for_the_first(tmp_path):
    lock, order, told = tmp_path / "deep" / "a.lock", [], []

    def second():
        with alone(lock, waiting=lambda: told.append("waiting")):
            order.append("second")

    thread = threading.Thread(target=second)
    with alone(lock, waiting=lambda: told.append("first")):
        thread.start()
        while not told:
            time.sleep(0.01)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert told == ["waiting"]


def test_a_lock_ends_with_its_process(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from headstart.files import alone
with alone(Path({str(tmp_path / "a.lock")!r}), waiting=lambda: None):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    told = []
    with alone(tmp_path / "a.lock", waiting=lambda: told.append("waiting")):
        assert told == []


def test_a_lock_that_cant_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WriteError, match=r"a\.lock can't be written.*Choose another"),
        alone(tmp_path / "file" / "a.lock", waiting=lambda: None, advice="Choose another."),
    ):
        pass


def test_why_something_cant_be_read_is_told_with_the_file_that_is_meant(tmp_path):
    told = r"/a can't be read: no such file or directory\. Restore it\.$"
    with pytest.raises(BundleError, match=told), reading(tmp_path, BundleError, "Restore it."):
        (tmp_path / "a").read_bytes()
    for error, told in [
        (MemoryError(), "x can't be read: it does not fit into memory."),
        (OSError("odd"), "x can't be read: odd."),
        (
            PermissionError(errno.EACCES, "No"),
            "x can't be read: no permission to read it. Ask its owner for that, or copy it.",
        ),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, ""), "x can't be read: it is not text in UTF-8."),
    ]:
        with pytest.raises(RunError) as caught, reading("x", RunError):
            raise error
        assert str(caught.value) == told
        assert caught.value.__suppress_context__
    with pytest.raises(KeyError), reading("x", RunError):
        raise KeyError
