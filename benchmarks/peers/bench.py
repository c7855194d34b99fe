"""Train with headstart and with its rivals, on the same images, from the same weights, in turns on one machine.

    make bench                                  # everything: hours, and it says so first
    make bench RIVALS=fastai,timm               # headstart and these
    python benchmarks/peers/bench.py --help

What was measured stays in benchmarks/results/peers.json; a stopped bench goes on where it stopped. See README.md beside
this file for the protocol.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from environments import InstallError, python_of, versions_of
from headstart.compute.device import describe_hardware
from headstart.files import write_json
from images import ARCHITECTURE, TRAIN_IMAGES, write_cifar10, write_weights
from rivals import RIVALS, Rival
from task import Task, accuracy
from watch import watch

RESULT = Path(__file__).parents[1] / "results" / "peers.json"
LEVELS = (0.85, 0.8882, 0.91, 0.93)
FROZEN_EPOCHS, SIZE = "10", 96
MINUTES_EACH = 6
"""Orientation for the announcement: what one training takes in the mean."""


def plan(names: list[str], seeds: list[int]) -> list[tuple[str, str, str, int]]:
    """Return the trainings as (rival, setting, length, seed), so that the rivals take turns."""
    cells = []
    for seed in seeds:
        for step in range(max(len(lengths) for name in names for lengths in RIVALS[name].lengths.values())):
            for setting in ("defaults", "expert"):
                for name in names:
                    lengths = RIVALS[name].lengths.get(setting, ())
                    cells += [(name, setting, lengths[step], seed)] if step < len(lengths) else []
        cells += [(name, "frozen", FROZEN_EPOCHS, seed) for name in names if RIVALS[name].pretrained]
    return cells


def train(python: Path, rival: Rival, task: Task) -> dict[str, Any]:
    """Train once in a process of its own; return what was measured, or why it failed."""
    shutil.rmtree(task.out, ignore_errors=True)
    task.out.mkdir(parents=True)
    (task.out / "task.json").write_text(json.dumps(asdict(task), default=str), encoding="utf-8")
    here = str(Path(__file__).parent)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": str(task.threads),
        # Nothing that an earlier run computed: no features, no decoded images.
        "HEADSTART_HOME": str(task.out / "home"),
        "YOLO_CONFIG_DIR": str(task.out / "home"),
    }
    load = os.getloadavg()[0]
    done = watch([python, rival.script, task.out / "task.json"], environment, task.out / "log.txt")
    if done.status:
        return {"failed": done.last_words.splitlines()[-1:] or [f"exit status {done.status}"]}
    found = {"seconds": done.seconds, "peak_mb": done.peak_mb, "load_before": round(load, 2)}
    return found | ({"accuracy": accuracy(task)} if rival.pretrained else {})


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Return for each rival and setting its curve of accuracy against time, and what follows from it."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, cell in cells.items():
        name, setting, length, _seed = key.split("/")
        if "seconds" in cell:
            grouped.setdefault(f"{name}/{setting}", {}).setdefault(length, []).append(cell)
    return {key: _of_setting(*key.split("/"), by_length) for key, by_length in grouped.items()}


def _of_setting(name: str, setting: str, by_length: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    points = []
    for length, found in by_length.items():
        point: dict[str, Any] = {"length": length, "seeds": len(found)}
        for figure in ("seconds", "accuracy", "peak_mb"):
            if figure in found[0]:
                values = [cell[figure] for cell in found]
                point[figure] = round(statistics.median(values), 4)
                point[f"{figure}_range"] = [min(values), max(values)]
        points.append(point)
    row: dict[str, Any] = {"points": points, "lines": RIVALS[name].lines}
    if RIVALS[name].pretrained and setting != "frozen":
        # A user who needs an accuracy trains for as long as it takes; with fewer epochs, not to their middle.
        row["seconds_to"] = {
            f"{level:.2%}": min((p["seconds"] for p in points if p["accuracy"] >= level), default=None)
            for level in LEVELS
        }
    epochs = {int(point["length"]): point["seconds"] for point in points if point["length"].isdigit()}
    if setting != "frozen" and name != "headstart" and len(epochs) > 1:
        first, last = min(epochs), max(epochs)
        rate = TRAIN_IMAGES * (last - first) / (epochs[last] - epochs[first])
        row["images_per_second"] = round(rate, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", default=",".join(RIVALS), help="names with commas; headstart is always measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=TRAIN_IMAGES, help="training images, for a trial")
    parser.add_argument("--test-images", type=int, help="test images, for a trial")
    parser.add_argument("--lengths", type=int, help="only the first so many lengths of each setting")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder for images and environments")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    asked = [name for name in given.rivals.split(",") if name]
    if unknown := [name for name in asked if name not in RIVALS]:
        parser.error(f"no rival {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    bench(list(dict.fromkeys(["headstart", *asked])), given)


def bench(names: list[str], given: argparse.Namespace) -> None:
    result = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    cells, unavailable = result.get("cells", {}), {}
    work = given.work.resolve()
    pythons = {}
    for name in names:
        try:
            pythons[name] = python_of(RIVALS[name], name, work / "environments")
        except InstallError as error:
            unavailable[name] = str(error)
            print(f"{RIVALS[name].title} can't be installed: {error}", file=sys.stderr)
    due = [
        (name, setting, length, seed)
        for name, setting, length, seed in plan(list(pythons), given.seeds)
        if f"{name}/{setting}/{length}/{seed}" not in cells
        and (setting == "frozen" or length in RIVALS[name].lengths[setting][: given.lengths])
    ]
    print(
        f"{len(due)} trainings, about {len(due) * MINUTES_EACH / 60:.1f} hours. Ctrl-C stops; the next start goes on."
    )
    data = write_cifar10(work, given.images, given.test_images)
    weights = write_weights(work)
    for name, setting, length, seed in due:
        frozen = setting == "frozen"
        out = work / "trainings" / f"{name}-{setting}-{length}-{seed}"
        task = Task(data, weights, ARCHITECTURE, SIZE, setting, length, frozen, seed, given.threads, out)
        cells[f"{name}/{setting}/{length}/{seed}"] = cell = train(pythons[name], RIVALS[name], task)
        print(name, setting, length, f"seed {seed}", cell, flush=True)
        if "failed" not in cell:
            shutil.rmtree(out)
        versions = result.get("versions", {})
        versions[name] = versions_of(pythons[name], RIVALS[name].packages)
        result |= {
            "claim": f"time and accuracy of trainings on {given.images:,} images of CIFAR-10 as PNG files",
            "command": "make bench",
            "hardware": describe_hardware(torch.device("cpu")) | {"threads": given.threads},
            "versions": versions,
            "unavailable": result.get("unavailable", {}) | unavailable,
            "summary": summary(cells),
            "cells": cells,
        }
        write_json(given.out, result)


if __name__ == "__main__":
    main()
