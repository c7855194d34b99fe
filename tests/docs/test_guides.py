"""The guides: what they tell people to type is accepted, their Python runs, and the tutorial is worked through."""

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from fences import FENCE, commands

import warm
from headstart.bundle.folder import load_bundle
from headstart.cli import app
from headstart.deployment.graph import WholeClassifier, to_program

ROOT = Path(__file__).parents[2]
GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("own-images", "data", "training", "troubleshooting", "sharing", "deploying")
]
TUTORIAL = GUIDES[0].read_text(encoding="utf-8")
# The notebook on own images fine-tunes for as long as a budget lets it.
SHORT = ["--budget", "10s", "--set", "finetune.schedule=[{epochs: 1, size: 64}]", "--set", "hardware.precision=fp32"]
SHORT += ["--set", "hardware.memory_format=contiguous", "--backbone", "test_efficientnet", "--weights", "none"]


@pytest.mark.parametrize("line", [line for guide in GUIDES for line in commands(guide.read_text(encoding="utf-8"))])
def test_a_command_is_accepted(line):
    _, name, *words = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, words).params


def test_the_tutorial_works_from_its_first_command_to_its_last(photos, tmp_path):
    """On a sample of the same photographs, with little time; the rest is as it is written."""
    lines = [line for kind, fence in FENCE.findall(TUTORIAL) if kind == "bash" for line in fence.splitlines()]
    assert [line.split()[1] for line in lines] == ["explore", "train", "predict", "predict"]
    for line in lines:
        words = shlex.split(line)[1:]
        words += SHORT if words[0] == "train" else []
        done = warm.headstart(*words, cwd=tmp_path, HEADSTART_HOME=str(tmp_path / "home")).wait(timeout=240)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "explore-photos" / "explore.html").is_file()
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()
    table = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + len(list(photos.glob("*/*.jpg"))) == 49
    (python,) = [fence for kind, fence in FENCE.findall(TUTORIAL) if kind == "python"]
    place = {}
    exec(python.replace('"photos', f'"{tmp_path}/photos').replace('"runs', f'"{tmp_path}/runs'), place)
    assert place["prediction"].probabilities.shape == (1, 6)


def python_of(name):
    (guide,) = [guide for guide in GUIDES if guide.stem == name]
    return [fence for kind, fence in FENCE.findall(guide.read_text(encoding="utf-8")) if kind == "python"]


def test_the_python_of_deploying_works(exported, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "photos-program"):
        shutil.copytree(exported, Path("exports") / name)
    program = to_program(WholeClassifier(load_bundle(measured.model)))
    Path("exports/photos-program/model.pt2").write_bytes(program)
    in_torch, loaded, alone = python_of("deploying")
    place = {}
    exec(in_torch, place)
    np.testing.assert_allclose(place["probabilities"], place["golden"]["probabilities"][:1], atol=1e-4)
    place["golden"].close()
    exec(loaded, place)
    monkeypatch.chdir("exports/photos")
    monkeypatch.syspath_prepend(Path.cwd())
    Path("golden/00.png").rename("cat.jpg")
    exec(alone, place)
    (label, probability), *_ = place["predictor"].predict("cat.jpg").top(1)[0]
    told, share = capsys.readouterr().out.split()
    assert (told, float(share)) == (label, pytest.approx(probability, abs=1e-5))
    sys.modules.pop("predict")


def test_the_python_of_sharing_works(hub, small_classifier):
    hub.publish("me/cifar10", **{path.name: path.read_bytes() for path in small_classifier.iterdir()})
    (fence,) = python_of("sharing")
    place = {}
    exec(fence, place)
    assert list(place["classifier"].class_names) == ["cat", "dog"]
