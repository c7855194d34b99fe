"""import-linter keeps the rooms apart; this shows that it does, and that no room escapes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(config, cwd):
    return subprocess.run(
        [LINT, "--no-logo", "--no-cache", "--config", config],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package that may be spoilt; being in the working folder, it is the one that is linted."""
    shutil.copytree(ROOT / "src", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def spoil(copy, file, line):
    path = copy / "headstart" / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")


BREACHES = [
    ("training/intruder.py", "headstart.evaluation.evaluate", "Data flows one way"),
    ("data/intruder.py", "headstart.models.heads", "Data flows one way"),
    ("errors.py", "headstart.contracts", "Data flows one way"),
    ("training/intruder.py", "timm", "timm only in models"),
    ("inference/intruder.py", "jinja2", "jinja2 only in report"),
    ("training/intruder.py", "scipy", "scipy only in evaluation"),
    ("wording.py", "typer", "typer only in cli"),
]


def test_broken_rules_are_noticed(copy):
    for file, imported, _ in BREACHES:
        spoil(copy, file, f"import {imported}")
    done = lint(ROOT / "pyproject.toml", copy)
    assert done.returncode != 0
    broken = {text.removesuffix(" BROKEN") for text in done.stdout.splitlines() if text.endswith(" BROKEN")}
    assert broken == {rule for *_, rule in BREACHES}
    for file, imported, _ in BREACHES:
        importer = f"headstart.{file.removesuffix('.py').replace('/', '.')}"
        assert f"{importer} -> {imported} " in done.stdout


def test_a_room_that_no_rule_knows_is_noticed(copy):
    spoil(copy, "attic/__init__.py", "")
    done = lint(ROOT / "pyproject.toml", copy)
    assert done.returncode != 0
    assert "attic" in done.stdout
