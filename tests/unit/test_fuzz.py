"""The fuzzing script: a few damaged inputs, each answered by name."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_inputs_are_answered_by_name_and_alike_each_time(fuzz, tmp_path, own_home):
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "home").mkdir()
    fuzz.prepare(whole, thorough=False)
    found = [fuzz.answer(number, 0, whole, tmp_path / str(number)) for number in range(15)]
    assert [one for one in found if one["outcome"] not in fuzz.GOOD] == []
    assert len({one["outcome"] for one in found}) > 1
    again = fuzz.answer(3, 0, whole, tmp_path / "again")
    assert (again["damage"], again["asked"]) == (found[3]["damage"], found[3]["asked"])
