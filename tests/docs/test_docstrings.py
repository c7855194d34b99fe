"""The examples in docstrings are true; those that need a network or an hour say so with +SKIP."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import headstart

ROOT = Path(headstart.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def test_there_are_examples_to_run():
    assert ROOT / "wording.py" in WITH_EXAMPLES


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_a_module_are_true(path):
    name = ".".join(["headstart", *path.relative_to(ROOT).with_suffix("").parts])
    failed, _ = doctest.testmod(import_module(name.removesuffix(".__init__")))
    assert failed == 0
