import errno
import inspect
import re

import pytest

from headstart import errors
from headstart.errors import HeadstartError, InputError, WriteError, nearest

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, HeadstartError) and value.__module__ == errors.__name__
]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    assert {error.__name__ for error in CLASSES} == set(re.findall(r"\b\w+Error\b", errors.__doc__))
    for error in CLASSES:
        assert error.__doc__


@pytest.mark.parametrize("error", CLASSES, ids=lambda e: e.__name__)
def test_the_exit_status_says_whose_fault_it_was(error):
    wrong_input = issubclass(error, InputError)
    assert error.exit_status == (2 if wrong_input else 130 if error is errors.StoppedError else 1)
    # People who call headstart from Python can catch bad input without knowing our tree.
    assert issubclass(error, ValueError) == wrong_input


def test_a_place_that_can_not_be_written_is_bad_input_and_a_full_disk_is_not():
    assert WriteError("x", OSError(errno.ENOENT, "No such file")).exit_status == 2
    assert WriteError("x", OSError(errno.ENOSPC, "No space left")).exit_status == 1


def test_nearest_names_a_close_word_only():
    assert nearest("quikstart", ["quickstart", "cpu-best"]) == " Did you mean 'quickstart'?"
    assert nearest("zebra", ["quickstart", "cpu-best"]) == ""
    assert nearest("anything", []) == ""


def test_nearest_takes_any_iterable():
    assert nearest("lrr", (key for key in ("lr", "seed"))) == " Did you mean 'lr'?"
