"""Arrays that the cache keeps between runs."""

import os
import time

import numpy as np
import pytest

from headstart.data.kept_array import KeptArray
from headstart.errors import WriteError

ANY = 10**9


def test_values_are_read_back_for_what_decided_them_alone(tmp_path, caplog):
    path = tmp_path / "kind" / "a.npy"
    KeptArray(path, {"of": 1}, ANY).keep(np.arange(6).reshape(3, 2))
    assert KeptArray(path, {"of": 1}, ANY).read(lambda _: True).values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert not caplog.records
    assert KeptArray(path, {"of": 1}, ANY).read(lambda stored: stored.values.shape == (3, 3)) is None
    assert KeptArray(path, {"of": 2}, ANY).read(lambda _: True) is None
    assert caplog.text.count("other values than its name says") == 2


def test_what_was_not_used_for_longest_makes_way(tmp_path):
    kept = [KeptArray(tmp_path / f"{name}.npy", {"of": name}, 1500) for name in "abc"]
    for age, one in ((30, kept[0]), (20, kept[1])):
        one.keep(np.zeros(40))
        os.utime(one.path, (time.time() - age, time.time() - age))
    kept[0].read(lambda _: True)
    kept[2].keep(np.zeros(40))
    assert [one.path.exists() for one in kept] == [True, False, True]


def test_rows_come_in_blocks_and_a_file_that_lacks_some_never_appears(tmp_path):
    kept = KeptArray(tmp_path / "a.npy", {}, ANY)
    rows = np.arange(10.0).reshape(5, 2)
    with kept.writer((5, 2), rows.dtype, lambda: {"seconds": 1.5}) as add:
        add(rows[:3])
        add(rows[3:])
    stored = kept.read(lambda _: True)
    assert np.array_equal(stored.values, rows)
    assert stored.facts["seconds"] == 1.5
    kept.path.unlink()
    with pytest.raises(AssertionError, match="32 bytes"), kept.writer((5, 2), rows.dtype) as add:
        add(rows[:3])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path, caplog):
    (tmp_path / "kind").write_text("a file")
    kept = KeptArray(tmp_path / "kind" / "a.npy", {}, ANY)
    kept.keep(np.zeros(3))
    assert "HEADSTART_HOME" in caplog.text
    with pytest.raises(WriteError, match="HEADSTART_HOME"), kept.writer((3,), np.dtype(float)):
        pass
