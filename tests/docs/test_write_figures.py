"""The script that carries measured figures into README.md and the recipes still finds their places there."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("write_figures", ROOT / "benchmarks" / "write_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_what_was_measured(script):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.readme_with_figures(readme) == readme
    stale = readme.replace("PNG files of 32 x 32 pixels in 9 s", "PNG files of 32 x 32 pixels in 1 s")
    assert stale != readme
    assert script.readme_with_figures(stale) == readme


def test_the_recipes_show_what_was_measured(script):
    for name in script.MEASURED_RECIPES:
        path = script.RECIPES / f"{name}.yaml"
        assert script.recipe_with_header(name) == path.read_text(encoding="utf-8")
