"""``import headstart`` gives what it promises and costs nothing."""

import importlib.metadata
import subprocess
import sys

import pytest

import headstart


def test_every_public_name_resolves():
    assert headstart.__all__ == sorted(headstart.__all__)
    story = {"explore", "train", "evaluate", "compare", "study", "load"}
    assert story | {"Predictor", "Predictions", "HeadstartError"} < set(headstart.__all__)
    resolved = {name: getattr(headstart, name) for name in headstart.__all__}
    assert all(value is not None for value in resolved.values())
    assert all(resolved[name].__name__ == name for name in story)
    assert headstart.__version__ == importlib.metadata.version("headstart")
    assert dir(headstart) == headstart.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'headstart' has no attribute 'laod'"):
        _ = headstart.laod


def test_importing_headstart_imports_nothing_heavy():
    script = "import sys, headstart; print(*{'torch', 'timm', 'numpy', 'PIL', 'pydantic'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


def test_importing_leaves_garbage_collection_as_it_was():
    script = "import gc, headstart as h; h.load; print(gc.isenabled()); gc.disable(); h.train; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "False"], done.stderr
