"""An array and its facts in one checked file."""

import os
import time

import numpy as np

from headstart.data.array_file import new_array, read_array


def test_an_endless_file_is_not_hashed(tmp_path):
    path = tmp_path / "a.npy"
    with new_array(path, (5,), np.dtype(np.int64), lambda: {"a": 1}) as add:
        add(np.arange(5))
    assert read_array(path).facts == {"a": 1}
    os.truncate(path, 10**13)
    started = time.monotonic()
    assert read_array(path) is None
    assert time.monotonic() - started < 1
