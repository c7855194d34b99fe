"""Whatever is damaged in a run's folder, the page and the comparison end in an error that names the place."""

import json
import random
import shutil

import pytest

from headstart.errors import InputError
from headstart.report.html import write_report
from headstart.workflows.compare import compare

FILES = ("metrics.json", "environment.json", "history.csv", "predictions.csv", "split_manifest.csv", "recipe.yaml")
ADDED = ("corruptions.json", "saliency.json")
VALUES = (None, True, -1, 0, 1.5, 10**400, float("nan"), "", "x" * 5000, "\u2028", [], {}, [[1]], {"a": {}})


def damaged_bytes(content, chance):
    """Flip, cut, repeat or replace some bytes."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content)) if content else 0
        kind = chance.randrange(4)
        if kind == 0 and content:
            content[place] = chance.randrange(256)
        elif kind == 1:
            del content[place : place + chance.randint(1, 200)]
        elif kind == 2:
            content[place:place] = content[place : place + 50]
        else:
            content[place : place + 8] = chance.choice([b"\0", b'"', b"{", b"]", b",", b"\xff\xfe", b"1e999", b"NaN"])
    return bytes(content)


def damaged_json(text, chance):
    """Put a value of another kind somewhere into the tree, or take one out."""
    tree = json.loads(text)
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = chance.choice(list(keys))
        if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.7:
            node = node[key]
            continue
        if chance.random() < 0.2:
            del node[key]
        else:
            node[key] = chance.choice(VALUES)
        return json.dumps(tree).encode()


@pytest.fixture
def complete(make_evaluated_run, tmp_path):
    run = make_evaluated_run(n=40)
    rows = [p for p in run.run.predictions() if p.label != p.predicted][:2]
    images = [
        {"row": p.row, "size": [32, 32], "box": [0, 0, 32, 32], "maps": {p.label: [[0, 1]], p.predicted: [[1, 0]]}}
        for p in rows
    ]
    saliency = {"method": "Grad-CAM", "library": "captum", "layer": "bn2", "images": images}
    (run.path / "saliency.json").write_text(json.dumps(saliency))
    figures = {
        "accuracy_ci95": [0.4, 0.6],
        "relative_accuracy": 0.6,
        "by_severity": [0.5],
        "categories": {"noise": [0.5]},
    }
    figures |= {"n": 10, "seed": 0, "severities": [1], "clean_accuracy": 0.8, "accuracy": 0.5}
    figures["corruptions"] = {"shot noise": {"category": "noise", "accuracy": [0.5]}}
    (run.path / "corruptions.json").write_text(json.dumps(figures))
    shutil.copytree(run.path, tmp_path / "other")
    return run


@pytest.mark.parametrize("name", [*FILES, *ADDED])
def test_damage_is_refused_by_name_or_does_no_harm(complete, tmp_path, name):
    path = complete.path / name
    whole = path.read_bytes()
    refused = []
    for seed in range(24):
        chance = random.Random(f"{name} {seed}")
        path.write_bytes(
            damaged_json(whole, chance) if name.endswith("json") and seed % 2 else damaged_bytes(whole, chance)
        )
        for work in (
            lambda: write_report(complete.run, complete.picture),
            lambda: compare([complete.path, tmp_path / "other"], out=None, data_dir=None, progress=False),
        ):
            try:
                work()
            except InputError as error:
                refused.append(str(error))
    assert refused
    assert [said for said in refused if complete.path.name not in said or len(said) > 2000] == []
