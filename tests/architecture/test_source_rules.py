"""Rules of the house that a reader of the source relies on; docs/design.md gives the reason for each."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "headstart").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 60, 7


@cache
def trees():
    """The parsed source by path."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def room(path):
    """First part below the package: ``training`` for training/loop.py, ``cli`` for cli/train.py."""
    return path.relative_to(ROOT / "src" / "headstart").parts[0].removesuffix(".py")


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def calls(name):
    """Every call of ``name`` (``print``, or ``.load`` for a method), as (path, call)."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
                yield path, node


def test_files_are_short_enough_to_read_in_one_sitting():
    too_long = {
        str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert too_long == {}


def test_functions_are_short():
    too_long = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # The parameters and the docstring are documentation; what counts is the body.
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
                if lines > MAX_FUNCTION_LINES:
                    too_long[f"{where(path, node)} {node.name}"] = lines
    assert too_long == {}


def test_what_travels_together_is_one_object():
    """Only the functions that users call, from Python or as a command, take a long list of arguments."""
    too_many = {}
    for path, tree in trees().items():
        if room(path) == "cli" or path.name == "api.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len(names) - (names[:1] in (["self"], ["cls"])) > MAX_PARAMETERS:
                    too_many[f"{where(path, node)} {node.name}"] = len(names)
    assert too_many == {}


def test_rooms_are_named_for_what_they_hold():
    nameless = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}
    assert [str(path) for path in SOURCES if {path.stem, *path.parent.parts[len(ROOT.parts) :]} & nameless] == []


def test_our_classes_do_not_inherit_from_each_other():
    ours = {
        node.name: path for path, tree in trees().items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    heirs = [
        where(path, node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        # The error tree is a tree on purpose, and recipes share one strict pydantic configuration.
        and room(path) not in {"errors", "recipe"}
        and {ast.unparse(base) for base in node.bases} & set(ours)
        and not {ast.unparse(base) for base in node.bases} & {"HeadstartError", "InputError", "TrainingError"}
    ]
    assert heirs == []


def test_the_test_split_is_opened_only_to_evaluate():
    opened = [where(path, call) for path, call in calls("sealed_test.open")]
    opened += [where(path, call) for path, call in calls("SealedTest.open")]
    assert opened, "evaluation opens it somewhere; has the method been renamed?"
    assert [place for place in opened if not place.startswith("src/headstart/evaluation/")] == []


def test_nothing_is_unpickled():
    # Naming the error that a refused pickle raises is fine; reading one is not.
    readers = {"cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and {alias.name for alias in node.names} & readers:
                found.append(where(path, node))
            if isinstance(node, ast.ImportFrom) and (
                node.module in readers
                or (node.module == "pickle" and [alias.name for alias in node.names] != ["UnpicklingError"])
            ):
                found.append(where(path, node))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                found += [where(path, node)] if node.attr != "UnpicklingError" else []
    assert found == []
    for path, call in calls("torch.load"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("weights_only") == "True", where(path, call)
    for name in ("np.load", "numpy.load"):
        for path, call in calls(name):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("allow_pickle", "False") == "False", where(path, call)


def test_only_the_stories_unpack_a_recipe():
    """Components take plain keyword arguments, so that each can be used and tested without a recipe."""
    allowed = {"recipe", "cli", "api", "workflows", "runs", "studies"}
    users = {
        str(path.relative_to(ROOT / "src" / "headstart"))
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module in {"headstart.recipe.schema", "headstart.recipe.sections"}
        and room(path) not in allowed
    }
    stories = {f"training/{name}.py" for name in ("fit", "build", "material", "timing")}
    assert users <= stories | {"evaluation/comparable.py"}


def tracked_text_files():
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT)
    if listed.returncode:
        return None
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/"),
    "the host of a package registry": re.compile(
        r"\b(?:registry\.npmjs|registry\.yarnpkg|files\.pythonhosted)\b|pypi\.org/simple"
    ),
    "a credential": re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bghp_[A-Za-z0-9]{20,}|BEGIN [A-Z ]*PRIVATE KEY"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_tracked_files_are_free_of(what):
    files = tracked_text_files()
    assert files is None or len(files) > 30
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files or []
        if path != this and (match := FORBIDDEN[what].search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


def test_every_test_file_is_found_by_its_place():
    """Two test files of one name would shadow each other, since the folders are not packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
    allowed = {"unit", "cli", "parity", "architecture", "docs", "browser"}
    assert {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")} <= allowed
