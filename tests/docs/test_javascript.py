"""The JavaScript that needs no Python: the same squares to the last bit, the same answers from the exported file."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart.data.preprocess import Preprocess
from headstart.deployment.golden import read_golden

CODE = Path(headstart.__file__).parent / "deployment" / "javascript"
SQUARES = """
import { readFileSync } from "node:fs";
import { square } from "%s";
const cases = JSON.parse(readFileSync(0));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const made = cases.map(({ data, width, height, rule }) => square({ data: bytes(data), width, height }, rule));
console.log(JSON.stringify(made.map(({ data, width }) => [width, Buffer.from(data).toString("base64")])));
"""
RESIZED = [(1, 1), (3, 5), (10, 700), (96, 96), (97, 96), (333, 500), (641, 480), (1200, 37), (700, 900), (64, 1024)]


def node(*words, **options):
    if shutil.which("node") is None:
        pytest.fail("Node.js is not installed, e.g. with: apt-get install nodejs npm")
    return subprocess.run(["node", *map(str, words)], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.npm
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_squares_are_those_of_python(fit, tmp_path):
    generator = np.random.default_rng(0)
    cases, wanted = [], []
    for kernel in ("bilinear", "bicubic"):
        for size, share in ((96, 1.0), (128, 0.875), (32, 0.9)):
            for height, width in RESIZED:
                image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                rule = Preprocess(size, (0.485, 0.456, 0.406), (0.2,) * 3, kernel, share, fit)
                named = {"side": rule.side, "fit": fit, "interpolation": kernel, "mean": rule.mean}
                packed = base64.b64encode(image.tobytes()).decode()
                cases.append({"data": packed, "width": width, "height": height, "rule": named})
                wanted.append(rule.square(image))
    (tmp_path / "squares.mjs").write_text(SQUARES % (CODE / "square.mjs"))
    done = node(tmp_path / "squares.mjs", input=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    for (side, packed), expected in zip(json.loads(done.stdout), wanted, strict=True):
        found = np.frombuffer(base64.b64decode(packed), np.uint8).reshape(side, side, 3)
        assert np.array_equal(found, expected)


@pytest.mark.npm
def test_the_example_for_node_answers_as_the_export(exported, tmp_path):
    for file in CODE.iterdir():
        shutil.copy(file, tmp_path)
    # The scripts of onnxruntime-node would fetch what only GPUs need.
    install = ["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run([*install, "onnxruntime-node", "sharp"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    golden = read_golden(exported, headstart.load(exported).class_names)
    done = node(tmp_path / "predict.mjs", exported, *golden.files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(file) for file in golden.files]
    names = headstart.load(exported).class_names.names
    for (_, label, probability), expected in zip(lines, golden.probabilities, strict=True):
        assert abs(expected[names.index(label)] - float(probability)) < 0.01
