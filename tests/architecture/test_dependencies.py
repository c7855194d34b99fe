"""What the source imports is declared, what is declared is used, and predicting loads only what it needs."""

import ast
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.contracts import ClassNames
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "src" / "headstart").rglob("*.py")), *sorted((ROOT / "docs").rglob("*.py"))]
"""The package, and the examples that its extras are for."""


def names(requirements):
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@pytest.fixture(scope="module")
def declared():
    """Distributions that users get: always, and with each extra but the one for tests."""
    # Read from pyproject.toml, since the metadata of an editable install is as old as the install.
    project = WheelBuilder(str(ROOT)).metadata.core
    extras = {extra: names(lines) for extra, lines in project.optional_dependencies.items() if extra != "test"}
    return names(project.dependencies), extras


@cache
def imported_modules():
    """Top-level names of every third-party import, the lazy ones too."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports in this package are absolute"
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"headstart"}


@cache
def installed():
    return packages_distributions()


def distributions(module):
    return {canonicalize_name(name) for name in installed().get(module, [])}


def test_every_import_is_a_declared_dependency(declared):
    always, extras = declared
    allowed = always.union(*extras.values())
    modules = imported_modules()
    assert {"torch", "timm", "PIL", "yaml", "scipy", "huggingface_hub"} <= modules
    assert {module: distributions(module) for module in modules if not distributions(module) & allowed} == {}


def test_every_declared_dependency_is_used(declared):
    always, extras = declared
    used = set().union(*(distributions(module) for module in imported_modules()))
    used.add("onnxscript")  # torch imports it to export
    # Packages that hold only weights are found by name.
    used |= {name for name in always.union(*extras.values()) if name.endswith("-pytorch-model")}
    assert always.union(*extras.values()) - used == set()


PREDICT = """
import sys
from headstart.cli import main

assert main(["predict", "model", "image.png"]) == 0
unneeded = {"sklearn", "scipy", "pyarrow", "jinja2", "httpx", "torch._dynamo", "sympy"} & set(sys.modules)
print("unneeded:", *sorted(unneeded))
"""


def test_importing_what_predicts_and_serves_loads_no_torch():
    script = (
        "import sys, headstart.inference.predictor, headstart.server.run\nassert not {'torch', 'timm'} & {*sys.modules}"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


def test_predicting_loads_nothing_that_only_training_measuring_or_fetching_needs(tmp_path):
    backbone = load_backbone("test_efficientnet", weights="none", progress=False)
    bundle = Bundle(
        module=build_classifier(backbone, num_classes=2, seed=0).eval(),
        class_names=ClassNames(("cat", "dog")),
        preprocess=backbone.preprocess,
        dataset="animals",
        architecture=backbone.architecture,
        backbone=backbone.name,
        hidden=(),
        dropout=0.0,
        manifest_sha256="0" * 64,
    )
    save_bundle(bundle, tmp_path / "model")
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    done = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    predicted, unneeded = done.stdout.splitlines()
    assert predicted.startswith("image.png\t")
    assert unneeded == "unneeded:"
