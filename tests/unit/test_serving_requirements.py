"""What deploy/requirements-serving.txt lists is enough for exports, less for their script; what needs more says so."""

import json
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headstart.inference.predictor import load

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "deploy" / "requirements-serving.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def installed_with(lines):
    """Names of the distributions that pip installs for requirements."""
    found, open_ones = set(), [canonicalize_name(Requirement(line).name) for line in lines]
    while open_ones:
        name = open_ones.pop()
        if name in found:
            continue
        found.add(name)
        needed = map(Requirement, distribution(name).requires or [])
        open_ones += [canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def absent_beside(there):
    """Modules that are installed here and would not be there."""
    modules = packages_distributions().items()
    return sorted(module for module, names in modules if not {canonicalize_name(name) for name in names} & there)


@pytest.fixture(scope="module")
def absent():
    """Modules that are not there where exports are served."""
    return absent_beside(installed_with(LINES) | {"headstart"})


def test_the_list_is_a_part_of_what_headstart_declares():
    declared = WheelBuilder(str(ROOT)).metadata.core.dependencies
    ours, theirs = (
        {(canonicalize_name(r.name), str(r.specifier)) for r in map(Requirement, lines)} for lines in (LINES, declared)
    )
    assert ours <= theirs


WITHOUT = """
import sys
absent = set({absent!r})
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""
PREDICT = """
from headstart.cli import main
sys.exit(main(sys.argv[1:]))
"""
ALONE = """
import runpy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
SERVE = """
import os, signal, threading, urllib.request
from headstart.server.run import Options, serve

def ask(address):
    body = open(sys.argv[2], "rb").read()
    for path in ("/predict", "/metrics", "/", "/v2/health/ready"):
        given = {"data": body, "headers": {"Content-Type": "image/png"}} if path == "/predict" else {}
        print(path, urllib.request.urlopen(urllib.request.Request(address + path, **given)).status, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)

serve([sys.argv[1]], Options(port=0, log_requests=False), lambda at: threading.Thread(target=ask, args=[at]).start())
"""


def without(absent, script, *words):
    command = [sys.executable, "-c", WITHOUT.format(absent=absent) + script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_export_is_predicted_with_and_served(absent, exported):
    assert {"torch", "timm", "pyarrow", "scipy", "jinja2"} <= set(absent)
    image = sorted((exported / "golden").glob("*.png"))[0]
    done = without(absent, PREDICT, "predict", exported, image, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"]
    done = without(absent, PREDICT, "verify", exported)
    assert (done.returncode, "as certified" in done.stdout) == (0, True), done.stderr
    done = without(absent, SERVE, exported, image)
    assert done.returncode == 0, done.stderr
    for path in ("/predict", "/metrics", "/", "/v2/health/ready"):
        assert f"{path} 200" in done.stderr


def test_what_needs_more_says_so(absent, measured, exported):
    image = sorted((exported / "golden").glob("*.png"))[0]
    done = without(absent, PREDICT, "predict", measured.model, image)
    assert done.returncode == 2
    assert "needs torch, which is not installed" in done.stderr
    assert "bug" not in done.stderr


def test_the_script_beside_the_graph_needs_what_onnxruntime_numpy_and_pillow_bring(exported):
    absent = [*absent_beside(installed_with(["onnxruntime", "numpy", "pillow"])), "headstart"]
    assert {"torch", "onnx", "pydantic", "pillow_heif"} <= set(absent)
    files = sorted((exported / "golden").glob("*.[pj][np]g"))
    done = without(absent, ALONE, exported / "predict.py", *files)
    assert done.returncode == 0, done.stderr
    found = load(exported).predict(files)
    rows = zip(files, found.labels, found.probabilities.max(axis=1), found.unsure.tolist(), strict=True)
    expected = [[str(path), label, f"{p:.4f}", *["unsure"] * unsure] for path, label, p, unsure in rows]
    assert [line.split("\t") for line in done.stdout.splitlines()] == expected
    assert "unsure" in expected[0]
