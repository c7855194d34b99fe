"""The bench of headstart and its rivals: what is measured, and what follows from it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "peers"))

import bench
from cells import plan
from page import COLOURS
from rivals import ADAPTERS, RIVALS
from summary import ratios, summary
from watch import _end

CELLS = {
    "headstart/expert/1/0": {"seconds": 50.0, "accuracy": 0.90, "peak_mb": 900},
    "headstart/expert/2/0": {"seconds": 100.0, "accuracy": 0.92, "peak_mb": 1000},
    "headstart/steady/1/0": {"seconds": 40.0, "accuracy": 0.8, "peak_mb": 900, "images": 1000},
    "headstart/steady/3/0": {"seconds": 60.0, "accuracy": 0.9, "peak_mb": 900, "images": 1000},
    "headstart/files/png/0": {"seconds": 10.0, "accuracy": 0.8, "peak_mb": 500, "images_per_second": 300.0},
    "headstart/files/jpeg/0": {"seconds": 10.0, "accuracy": 0.8, "peak_mb": 500, "images_per_second": 200.0},
    "plain/expert/1/0": {"seconds": 120.0, "accuracy": 0.87, "peak_mb": 2000, "images": 1000},
    "plain/expert/4/0": {"seconds": 180.0, "accuracy": 0.89, "peak_mb": 2000, "images": 1000},
    "plain/files/png/0": {"seconds": 20.0, "accuracy": 0.8, "peak_mb": 800, "images_per_second": 150.0},
    "plain/files/jpeg/0": {"seconds": 20.0, "accuracy": 0.8, "peak_mb": 800, "images_per_second": 50.0},
    "keras/defaults/1/0": {"seconds": 5.0, "peak_mb": 10, "images": 1000},
    "keras/defaults/2/0": {"seconds": 5.1, "peak_mb": 10, "images": 1000},
    "fastai/expert/1/0": {"failed": ["out of memory"]},
}


def test_ratios_above_one_mean_ahead_of_the_best_rival_with_the_same_network():
    assert ratios(summary(CELLS)) == {
        "time_to_8882": 3.6,
        "time_to_91": None,
        "frozen_baseline": None,
        "train_images_per_second": 1.8,
        "inference_from_files": 2.0,
        "peak_memory": 2.0,
    }


def test_the_first_seed_begins_with_trainings_and_a_pattern_picks_cells():
    cells = plan(["headstart", "plain"], [0, 1], [])
    assert len({cell.key for cell in cells}) == len(cells)
    assert [cell.key for cell in cells[:3]] == ["headstart/expert/1/0", "plain/expert/1/0", "headstart/expert/2/0"]
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    picked = plan(["plain"], [0], ["*/files*/png/0", "*/files*/*/0"])
    assert [cell.key for cell in picked] == ["plain/files/png/0", "plain/files/one/0", "plain/files/jpeg/0"]


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_has_its_adapters_or_a_reason(name):
    rival = RIVALS[name]
    for script in filter(None, (rival.adapter, rival.files)):
        assert (ADAPTERS / f"{script}.py").is_file()
    assert bool(rival.adapter) != bool(rival.reason)


def test_only_images_that_are_trained_on_count_and_a_speed_needs_a_longer_training_that_took_longer():
    found = summary({**CELLS, "headstart/steady/3/0": CELLS["headstart/steady/3/0"] | {"seconds": 30.0}})
    assert found["headstart/steady"]["images_per_second"] is None
    assert ratios(found)["train_images_per_second"] is None
    assert summary(CELLS)["headstart/steady"]["images_per_second"] == 90.0  # a tenth of its images validate


def test_every_curve_has_a_colour_of_its_own():
    curves = [rival for rival in RIVALS.values() if rival.pretrained and rival.adapter]
    assert len(set(COLOURS)) == len(COLOURS) >= len(curves)


def test_only_what_is_due_is_installed_and_what_can_be_installed_now_is_available_again(tmp_path, monkeypatch):
    out, installed = tmp_path / "peers.json", []
    done = {"timm/expert/1/0": {"seconds": 9.0, "accuracy": 0.8, "peak_mb": 900, "images": 10}}
    out.write_text(json.dumps({"cells": done, "unavailable": {"fastai": "no network", "keras": "no network"}}))
    monkeypatch.setattr(bench, "python_of", lambda _rival, name, _folder: installed.append(name) or Path("python"))
    monkeypatch.setattr(bench, "versions_of", lambda *_: {})
    monkeypatch.setattr(bench.Bench, "measure", lambda *_: {"failed": ["not now"]})
    where = {"out": out, "work": tmp_path, "threads": 1, "trial": False, "plan": False}
    given = argparse.Namespace(**where, seeds=[0], only=["fastai/expert/1/0", "timm/expert/1/0"])
    bench.bench(["headstart", "fastai", "timm"], given)
    assert installed == ["headstart", "fastai"]
    assert json.loads(out.read_text())["unavailable"] == {"keras": "no network"}


def test_a_command_that_has_ended_already_can_be_ended():
    process = subprocess.Popen(["true"])
    process.wait()
    _end(process)
