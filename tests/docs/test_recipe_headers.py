"""Each shipped recipe's header says command, hardware, time and score, and the file that they were read from."""

import json
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
from figures import FIGURE, unbacked

from headstart.recipe.schema import load_recipe, shipped_recipes

ROOT = Path(__file__).parents[2]
FOLDER = files("headstart.recipes")
# What auto reaches depends on the images and on the machine: benchmarks/results/auto.json.
RECIPES = sorted({entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if ".yaml" in entry.name} - {"auto"})
FIELDS = ("command", "hardware", "time", "score", "measured")


def header(name):
    found = {}
    for line in FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        key, colon, value = line.removeprefix("#").strip().partition(":")
        if colon and key in FIELDS:
            found[key] = value.strip()
    return found


def test_all_recipes_are_found():
    assert shipped_recipes() == sorted([*RECIPES, "auto"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_says_what_it_is_for(name):
    assert load_recipe(name).description


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_is_complete_and_its_figures_are_in_the_file_it_names(name):
    said = header(name)
    assert list(said) == list(FIELDS), f"{name}.yaml must begin with '# key: value' lines for {FIELDS}, in order"
    words = shlex.split(said["command"])
    assert words[:2] == ["headstart", "train"]
    assert words[words.index("--recipe") + 1] == name
    measured = ROOT / said["measured"]
    assert measured.parent == ROOT / "benchmarks" / "results"
    assert measured.is_file(), measured
    assert FIGURE.search(said["score"]), "the score has no figure"
    assert FIGURE.search(said["time"]), "the time has no figure"
    assert unbacked(f"{said['score']} {said['time']}", measured) == []


def test_the_comparison_notices_a_wrong_figure(tmp_path):
    result = tmp_path / "r.json"
    figures = {"median": {"accuracy": 0.93124, "seconds": [187.4, 2460.0]}, "peak_rss_mb": 1449, "n": 0.5, "dogs": 77}
    result.write_text(json.dumps(figures))
    assert unbacked("93.1 % and 93.12% in 187 s, 3 min 7 s or 41 min with 1.4 GB", result) == []
    assert unbacked("93.2% in 3 min 8 s or 42 min with 1.5 GB", result) == ["93.2 %", "188 s", "42 min", "1.5 GB"]
    assert unbacked("no figure at all, 10,000 images, a 95% interval", result) == []
    # A number of another kind backs nothing.
    assert unbacked("50% in 77 s with 93 GB", result) == ["50 %", "77 s", "93 GB"]
