"""Measure how images in files become a working copy, and write benchmarks/results/working-copy.json.

python benchmarks/measure_working_copy.py rate              # images a second: 640 x 480 JPEGs of about 100 kB
python benchmarks/measure_working_copy.py png               # CIFAR-10's 10,000 + 10,000 as PNG: first and second run
python benchmarks/measure_working_copy.py memory [IMAGES]   # peak memory of `headstart train` on 100,000 JPEGs

Each part replaces its own figures in the file. The last one needs 10 GB in the folder for temporary files and about
half an hour. The JPEGs are cycled from a few, so that looking for near copies is switched off.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.preprocess import Preprocess
from headstart.data.splits import split_train
from headstart.data.working_copy import working_copy

RESULT = Path(__file__).parent / "results" / "working-copy.json"
DISTINCT, RATE_IMAGES, REPEATS, SIDE = 100, 2000, 3, 128


def main(part: str, *options: str) -> None:
    found = {"rate": rate, "png": png, "memory": memory}[part](*map(int, options))
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result[part] = found | {
        "command": " ".join(["python benchmarks/measure_working_copy.py", part, *options]),
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "pillow")},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def rate() -> dict[str, Any]:
    """Time reading a folder and making its working copy, each with an empty cache."""
    timed: dict[str, list[float]] = {"read_folder": [], "working_copy": [], "working_copy_again": []}
    cpu = []
    with tempfile.TemporaryDirectory() as scratch:
        mean_bytes = jpegs(Path(scratch) / "photos", RATE_IMAGES)
        preprocess = Preprocess(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        for number in range(REPEATS):
            os.environ["HEADSTART_HOME"] = str(Path(scratch) / f"home-{number}")
            dataset = clocked(
                timed["read_folder"],
                lambda: load_dataset(f"{scratch}/photos", progress=False, options=FileOptions(near_copies="ignore")),
            )
            count = len(dataset.train)
            for name in ("working_copy", "working_copy_again"):
                busy = time.process_time()
                clocked(timed[name], lambda dataset=dataset: working_copy(dataset.train, preprocess))
                if name == "working_copy":
                    cpu.append((time.process_time() - busy) / count)
    return {
        "claim": f"working copy of {count:,} JPEGs of 640 x 480 for a network of {SIDE} pixels",
        "images": count,
        "mean_kilobytes": round(mean_bytes / 1e3, 1),
        "images_per_second": round(count / statistics.median(timed["working_copy"])),
        "cpu_milliseconds_per_image": round(1000 * statistics.median(cpu), 2),
        "seconds": {name: [round(value, 2) for value in values] for name, values in timed.items()},
    }


def clocked(seconds: list[float], work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - started)
    return result


def jpegs(folder: Path, count: int) -> float:
    """Write photographs made of slopes and noise, no two alike byte by byte; return their mean size."""
    generator, contents = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        slopes, texture = (
            np.asarray(
                Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).resize(
                    (640, 480), Image.Resampling.BICUBIC
                )
            ).astype(float)
            for height, width in ((6, 8), (120, 160))
        )
        pixels = slopes + 0.35 * (texture - 128) + generator.normal(0, 10, (480, 640, 1))
        path = folder / "made.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=79)
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        path = folder / f"class-{number % 4}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        content, comment = contents[number % DISTINCT], f"{number:06d}".encode()
        path.write_bytes(content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:])
    return statistics.mean(map(len, contents))


def png() -> dict[str, Any]:
    """Time `headstart train` with the quickstart recipe on CIFAR-10: as arrays, as PNG files, and as those again."""
    dataset = load_dataset("cifar10", limit=10_000)
    # In a folder of their own, since arrays and files draw validation images in different ways.
    train_images, val_images = split_train(dataset.train, val_fraction=0.1, seed=0)
    splits = {"train": train_images, "val": val_images, "test": dataset.sealed_test.open()}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for name, subset in splits.items():
            for row, label in zip(subset.rows.tolist(), subset.labels.tolist(), strict=True):
                path = place / "png" / name / subset.class_names[label] / f"{row:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(subset.source.image(row)).save(path)
        homes = {name: place / f"home-{name}" for name in ("arrays", "png")}
        for home in homes.values():
            home.mkdir()
            (home / "datasets").symlink_to(Path(os.environ["HEADSTART_HOME"]) / "datasets")
        runs = {
            "arrays": ("cifar10", "arrays", "--limit", "10000"),
            "png_first": (str(place / "png"), "png"),
            "png_second": (str(place / "png"), "png"),
            "arrays_second": ("cifar10", "arrays", "--limit", "10000"),
        }
        metrics = {name: train(homes[home], place / name, data, *more) for name, (data, home, *more) in runs.items()}
    seconds = {name: found["total_seconds"] for name, found in metrics.items()}
    return {
        "claim": "quickstart on CIFAR-10's 10,000 + 10,000 images, same splits: PNG files against arrays, both runs",
        "total_seconds": seconds,
        "more_seconds_first": round(seconds["png_first"] - seconds["arrays"], 1),
        "more_seconds_second": round(seconds["png_second"] - seconds["arrays_second"], 1),
        "test_accuracy": {name: found["test"]["accuracy"] for name, found in metrics.items()},
        "peak_rss_mb": {name: found["peak_rss_mb"] for name, found in metrics.items()},
    }


def memory(images: int = 100_000) -> dict[str, Any]:
    """Train on many JPEGs with the quickstart recipe, one epoch, and return the peak memory of the command."""
    scratch = Path(tempfile.mkdtemp())
    try:
        jpegs(scratch / "photos", images)
        (scratch / "home").mkdir()
        steps = ("--set", "data.near_copies=ignore", "--set", "finetune.schedule=[{epochs: 1, size: 96}]")
        metrics = train(scratch / "home", scratch / "run", str(scratch / "photos"), *steps)
    finally:
        shutil.rmtree(scratch)
    return {
        "claim": f"peak memory of `headstart train` on {images:,} JPEGs of 640 x 480, quickstart with one epoch",
        "images": images,
        "peak_rss_mb": metrics["peak_rss_mb"],
        "total_seconds": metrics["total_seconds"],
    }


def train(home: Path, out: Path, data: str, *more: str) -> dict[str, Any]:
    words = ["train", data, "--recipe", "quickstart", "--out", str(out), "--json", "--quiet", *more]
    done = subprocess.run(
        [sys.executable, "-m", "headstart", *words],
        env=os.environ | {"HEADSTART_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
