"""What the documents tell people to type is accepted, what they point to exists, and their figures are backed."""

import ast
import json
import random
import re
import shlex
from pathlib import Path

import pytest
import typer
from fences import FENCE, LINK, commands
from figures import figures_in, unbacked

from headstart.cli import app
from headstart.recipe.read import read_overrides
from headstart.recipe.schema import load_recipe, shipped_recipes

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = DOCUMENTS[0].read_text(encoding="utf-8")


def test_the_readme_opens_with_the_two_commands():
    opening = README.splitlines()[:12]
    assert any(line.startswith("    make quickstart") for line in opening)
    assert any(line.startswith("    make test") for line in opening)


def test_all_commands_are_found():
    found = commands(README, "bash")
    assert len(found) == 18
    assert {line.split()[1] for line in found} == {
        *("train", "evaluate", "predict", "backbones"),
        *("explore", "compare", "study"),
        *("export", "verify", "serve", "push"),
    }


@pytest.mark.parametrize("line", commands(README, "bash"))
def test_a_command_is_accepted(line):
    """Parsed by the real parser, with the recipe and the overrides checked; only the work itself is left out."""
    _, verb, *words = shlex.split(line)
    command = typer.main.get_command(app).commands[verb]
    context = command.make_context(verb, words)
    given = context.params
    if verb == "train" and given["resume"] is None:
        assert given["data"] in ("cifar10", "photos/")
        recipe = given["recipe"] or ("quickstart" if given["data"] == "cifar10" else "auto")
        if recipe not in shipped_recipes():
            # The name of a file that the reader is to write.
            assert recipe.endswith(".yaml")
            recipe = "quickstart"
        numbers = {"data.limit": given["limit"], "seed": given["seed"]}
        overrides = {key: value for key, value in numbers.items() if value is not None}
        resolved = load_recipe(recipe, overrides | read_overrides(given["set_"] or []))
        assert given["limit"] in (None, resolved.data.limit)


def test_a_wrong_command_would_be_noticed():
    command = typer.main.get_command(app).commands["train"]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("train", ["cifar10", "--lmit", "3"])


def test_the_commands_of_the_makefile_are_those_of_the_readme():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    line = "headstart train cifar10 --limit 10000 --recipe quickstart --out"
    assert line in makefile
    assert f"{line} runs/quickstart" in commands(README, "bash")


def python_blocks():
    return [text for language, text in FENCE.findall(README) if language == "python"]


def test_python_names_in_the_readme_exist():
    import headstart
    from headstart.contracts import Predictions

    blocks = python_blocks()
    assert len(blocks) == 1
    attributes = {
        (ast.unparse(node.value), node.attr)
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute)
    }
    used = {name for owner, name in attributes if owner == "headstart"}
    assert used
    assert used <= set(headstart.__all__)
    assert all(
        hasattr(Predictions, name) or name in Predictions.__annotations__
        for o, name in attributes
        if o == "predictions"
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    missing = [
        link for link in LINK.findall(document.read_text(encoding="utf-8")) if not (document.parent / link).exists()
    ]
    assert missing == []


def test_every_target_the_documents_name_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(
            r"(?:^    |`)make (?:PYTHON=\S+ )?([a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {"quickstart", "test", "test-all"} <= named <= targets


def test_the_design_draws_the_layers_that_are_kept():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL).group(1)
    kept = [line.strip(' ",') for line in layers.splitlines() if "__main__" not in line]
    drawn = "\n".join(f"    {line}" for line in kept)
    assert drawn in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def test_the_readme_is_finished():
    assert re.findall(r"TODO[\w-]*", README) == []


GENERATED = re.compile(r"^<!-- study -->$.*?^<!-- /study -->$", re.MULTILINE | re.DOTALL)
"""What benchmarks/study_table.py writes, and its own test compares letter by letter."""


def measured_parts(document=ROOT / "README.md"):
    """Paragraphs, rows of tables and output with figures: (text, the result files it is to be backed by).

    These are the files that the part itself links, or else all that its section links.
    """
    content = document.read_text(encoding="utf-8")
    for section in re.split(r"^## ", GENERATED.sub("", content), flags=re.MULTILINE):
        # Made-up probabilities in code are no results.
        text = re.sub(r"^```python\n.*?^```$", "", section, flags=re.MULTILINE | re.DOTALL)
        for part in re.split(r"\n\n|\n(?=\|)", text):
            if figures_in(part):
                links = [link for place in (part, section) for link in LINK.findall(place) if link.endswith(".json")]
                own = [link for link in LINK.findall(part) if link.endswith(".json")]
                yield part, [document.parent / link for link in own or links]


@pytest.mark.parametrize("document", ["README.md", "docs/limits.md"])
def test_figures_are_in_the_files_that_are_linked(document):
    parts = list(measured_parts(ROOT / document))
    assert len(parts) >= 5
    for part, results in parts:
        assert results, f"no result file is linked for: {part[:60]!r}"
        assert unbacked(part, *results) == [], part


def test_made_up_figures_would_be_noticed():
    """Of random percentages and times, hardly any happens to be in the files that a part of the README links."""
    chance = random.Random(0)
    for form, most in (("{:.2f}%", 0.02), ("{:.1f}%", 0.1), ("{:.0f} s", 0.1)):
        text = " ".join(form.format(chance.uniform(5, 600 if form.endswith("s") else 100)) for _ in range(500))
        for part, results in measured_parts():
            assert len(unbacked(text, *results)) >= (1 - most) * 500, (form, part)


def test_result_files_are_json_objects():
    found = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert found
    for path in found:
        assert isinstance(json.loads(path.read_text(encoding="utf-8")), dict), path.name
