"""Measure `headstart train` with no option against quickstart and a linear probe, on seven data sets.

    python benchmarks/measure_auto.py --trashnet trashnet-112.tar.gz
    python benchmarks/measure_auto.py --trashnet trashnet-112.tar.gz --only trashnet-0 --methods auto

CIFAR-10 comes from the cache, Fashion-MNIST from Debian's package dataset-fashion-mnist, TrashNet (2,527 photographs of
112 x 84 pixels, six uneven classes) from an archive of class folders. A finished cell stays in
benchmarks/results/auto.json; a stopped measurement goes on where it stopped, and --again measures anew. TrashNet is
split 80/20 three times, stratified, into folders of its JPEG files; the others have their publisher's test split. The
rules of `auto` were settled on validation images and on training images outside these test splits, see "choices".
Whatever an earlier run has left in the cache folder, HEADSTART_HOME, is removed before each run, but for the data sets.

Run it on a quiet machine: auto plans with the speed that it finds. The load of the machine is recorded with each cell.
"""

import argparse
import gzip
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.dataset import load_dataset
from headstart.data.sources.arrays import write_store
from headstart.files import write_json
from headstart.home import cache_home

RESULT = Path(__file__).parent / "results" / "auto.json"
FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]
SPLITS = range(3)
PROBE = {"finetune": None, "probe": {"size": 128}, "evaluation": {"size": 128, "flip": False}}
METHODS = {"auto": [], "quickstart": ["--recipe", "quickstart"], "probe": []}
FIGURES = ("train_seconds", "total_seconds", "predicted_seconds", "peak_rss_mb", "predicted_mb")


def trashnet(archive: Path) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Return the files' names, images, labels and classes of an archive of class folders."""
    with tarfile.open(archive) as files:
        members = sorted((m for m in files if m.name.endswith(".jpg")), key=lambda member: member.name)
        folders = [Path(member.name).parent.name for member in members]
        images = [Image.open(io.BytesIO(files.extractfile(m).read())).convert("RGB") for m in members]
    classes = sorted(set(folders))
    labels = np.array([classes.index(folder) for folder in folders], np.int64)
    return [member.name for member in members], np.stack(images), labels, classes


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return a mask with so large a share of each class."""
    generator, mask = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for index in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == index))
        mask[rows[: round(share * len(rows))]] = True
    return mask


def fashion(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images in grey as RGB, and labels."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"{part}-{what}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for what, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return np.repeat(pixels.reshape(-1, 28, 28, 1), 3, axis=3), labels.astype(np.int64)


def data_sets(archive: Path | None, folder: Path) -> dict[str, Callable[[], list[str]]]:
    """Return, for the name of each data set, what writes it and returns what `headstart train` is given."""
    sets: dict[str, Callable[[], list[str]]] = {}
    for split in SPLITS if archive else ():
        sets[f"trashnet-{split}"] = partial(_trashnet_folder, archive, folder / f"trashnet-{split}", split)
    for limit in (100, 500, 2000, 10_000):
        sets[f"cifar10-{limit}"] = partial(list, ["cifar10", "--limit", str(limit)])
    for limit in (2000, 10_000):
        sets[f"fashion-{limit}"] = partial(_fashion_store, folder / "fashion", limit)
    return sets


def _trashnet_folder(archive: Path, folder: Path, split: int) -> list[str]:
    """Write a folder `train` and a folder `test` of class folders."""
    names, _, labels, _ = trashnet(archive)
    test = held_out(labels, 0.2, split)
    with tarfile.open(archive) as files:
        for name, sealed in zip(names, test, strict=True):
            path = folder / ("test" if sealed else "train") / Path(name).parent.name / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.extractfile(name).read())
    return [str(folder)]


def _fashion_store(folder: Path, limit: int) -> list[str]:
    (images, labels), (test_images, test_labels) = fashion("train"), fashion("t10k")
    arrays = Arrays(images[:limit], labels[:limit], test_images, test_labels)
    write_store(folder, arrays, name="fashion", class_names=ClassNames(tuple(FASHION_CLASSES)), source="a benchmark")
    return [str(folder)]


def measured(words: list[str], method: str) -> dict[str, Any]:
    """Train once, in a process of its own, with nothing computed before."""
    for kind in ("features", "squares", "files", "identities", "speed"):
        shutil.rmtree(cache_home() / kind, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        options = list(METHODS[method])
        if method == "auto" and words[0] == "cifar10":
            options = ["--budget", "5min"]  # the default of all other data
        if method == "probe":
            recipe = Path(scratch) / "probe.yaml"
            recipe.write_text(json.dumps(PROBE), encoding="utf-8")
            options = ["--recipe", str(recipe)]
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "headstart", "train", *words, *options, "--out", f"{scratch}/run", "--json"]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        environment = json.loads(Path(scratch, "run", "environment.json").read_text(encoding="utf-8"))
    plan = environment.get("plan") or {}
    return {
        "accuracy": found["test"]["accuracy"],
        "macro_f1": found["test"]["macro_f1"],
        "n_test": found["test"]["n"],
        **{name: found.get(name) for name in FIGURES},
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "threads": environment["threads"],
        **({"chosen": plan["reasons"]} if plan else {}),
    }


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Return a row for each data set: each method's figures, means over splits."""
    rows: dict[str, Any] = {}
    for name, cell in cells.items():
        data, method = name.split("/")
        rows.setdefault("trashnet" if data.startswith("trashnet") else data, {}).setdefault(method, []).append(cell)
    return {data: {method: _means(found) for method, found in by_method.items()} for data, by_method in rows.items()}


def _means(cells: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("accuracy", "macro_f1", *FIGURES)
    means = {name: round(statistics.mean(c[name] for c in cells), 4) for name in names if cells[0][name] is not None}
    return {"runs": len(cells), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trashnet", type=Path, help="archive of class folders")
    parser.add_argument("--only", default="", help="measure only this data set, or all splits of it")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    options = parser.parse_args()
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    cells = result.get("cells", {})
    load_dataset("cifar10")
    with tempfile.TemporaryDirectory() as folder:
        for data, write in data_sets(options.trashnet, Path(folder)).items():
            due = [m for m in options.methods if options.again or f"{data}/{m}" not in cells]
            asked = f"{data}-".startswith(f"{options.only}-" if options.only else "")
            words = write() if due and asked else []
            for method in due if words else ():
                cells[f"{data}/{method}"] = measured(words, method)
                print(data, method, cells[f"{data}/{method}"], flush=True)
                result |= {
                    "claim": "headstart train with no option, quickstart, and a linear probe at 128 px",
                    "command": "python benchmarks/measure_auto.py --trashnet trashnet-112.tar.gz",
                    "hardware": describe_hardware(torch.device("cpu")),
                    "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
                    "summary": summary(cells),
                    "cells": cells,
                }
                write_json(RESULT, result)


if __name__ == "__main__":
    main()
