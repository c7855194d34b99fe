"""Measure what is bounded: the memory of predicting odd images and many, and the sizes of files with 1,000 classes.

    python benchmarks/measure_bounds.py [predict_memory] [predict_many] [many_classes]

Writes predict-memory.json, predict-many.json and many-classes.json into benchmarks/results.
"""

import csv
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames, Predictions
from headstart.data.arrays import Arrays
from headstart.data.preprocess import Preprocess
from headstart.data.sources.arrays import write_store
from headstart.files import write_json
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier, empty_classifier
from headstart.runs.predictions import TestPredictions
from headstart.runs.run import Run
from headstart.tasks.single_label import SINGLE_LABEL

RESULTS = Path(__file__).parent / "results"
MANY = (2_000, 20_000, 200_000)
"""Files in one folder."""
CORES = (1, 4, 16)
"""Cores that the machine is made to believe it has: each may have a worker that decodes."""
PREDICT = """
import sys
from headstart.__main__ import run
from headstart.compute.memory import peak_memory_mb
from headstart.inference import workers

cores = int(sys.argv.pop(1))
workers.available_cores = lambda: cores
sys.argv[1:1] = ["predict"]
try:
    run()
except SystemExit as stop:
    print("peak", stop.code, peak_memory_mb())
"""


def write(part: str, claim: str, measured: dict) -> None:
    result = {
        "claim": claim,
        "command": f"python benchmarks/measure_bounds.py {part}",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy", "pillow")},
        **measured,
    }
    path = RESULTS / f"{part.replace('_', '-')}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path, measured)


def classifier(folder: Path) -> None:
    backbone = load_backbone("tf_efficientnet_lite0.in1k", progress=False)
    names = ClassNames(tuple(f"class {i}" for i in range(10)))
    save_bundle(
        Bundle(
            module=build_classifier(backbone, num_classes=10, seed=0).eval(),
            class_names=names,
            preprocess=backbone.preprocess.resized(128),
            architecture=backbone.architecture,
            backbone=backbone.name,
            hidden=(),
            dropout=0.0,
            dataset="none",
            manifest_sha256="0" * 64,
            temperature=1.0,
            flip=True,
            weights=asdict(backbone.weights),
        ),
        folder,
    )


def png_of_zeros(path: Path, width: int, height: int, colour: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row, packer = bytes(1 + width * {0: 1, 6: 4}[colour]), zlib.compressobj(1)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def hostile(folder: Path) -> None:
    """Write images that take much memory, in many formats."""
    folder.mkdir()
    png_of_zeros(folder / "large.png", 9400, 9400, 6)
    png_of_zeros(folder / "thin.png", 1, 80_000, 0)
    png_of_zeros(folder / "wide.png", 80_000, 1, 0)
    Image.new("L", (8160, 6120), 7).save(folder / "phone.jpg", progressive=True)
    Image.new("CMYK", (6000, 4000)).save(folder / "print.jpg")
    Image.new("L", (5500, 5500), 7).save(folder / "web.webp", method=0)
    Image.new("P", (9000, 9000)).save(folder / "palette.gif")
    Image.new("I;16", (8000, 6000)).save(folder / "deep.tiff", compression="tiff_lzw")
    Image.new("RGB", (6000, 6000)).save(folder / "bitmap.bmp")
    if features.check("avif"):
        Image.new("RGB", (5000, 5000)).save(folder / "new.avif", speed=10)
    if features.check("jpg_2000"):
        Image.new("RGB", (4500, 4500)).save(folder / "cinema.jp2")
    for path in list(folder.iterdir()):
        # As many of each as workers might decode at once.
        for number in range(7):
            path.with_stem(f"{path.stem}-{number}").hardlink_to(path)


def predict_memory(place: Path) -> None:
    classifier(place / "model")
    hostile(place / "images")
    found = {}
    for cores in CORES:
        words = [sys.executable, "-c", PREDICT, str(cores), place / "model", place / "images"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        *lines, last = done.stdout.splitlines()
        _, status, peak = last.split()
        assert last.startswith("peak"), done.stderr
        found[f"{cores} cores"] = {
            "peak_rss_mb": round(float(peak), 1),
            "predicted": len(lines),
            "refused": sum(": " in line for line in done.stderr.splitlines()),
            "exit_status": int(status),
        }
    worst = max(case["peak_rss_mb"] for case in found.values())
    images = len(list((place / "images").iterdir()))
    claim = "peak resident memory in MB of headstart predict on a mixture of images that take much memory"
    write("predict_memory", claim, {"images": images, "runs": found, "worst": worst, "asked": 1500})


def predict_many(place: Path) -> None:
    save_bundle(
        Bundle(
            module=empty_classifier("test_efficientnet", num_classes=10),
            class_names=ClassNames(tuple(f"class {i}" for i in range(10))),
            preprocess=Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            architecture="test_efficientnet",
            backbone="test_efficientnet",
            hidden=(),
            dropout=0.0,
            dataset="none",
            manifest_sha256="",
        ),
        place / "model",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(place / f"{number}.png")
    found = {}
    for count in MANY:
        folder, table = place / f"images-{count}", place / f"predictions-{count}.csv"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:07}.png").hardlink_to(place / f"{number % len(pixels)}.png")
        words = [sys.executable, "-c", PREDICT, "2", place / "model", folder, "--out", table]
        begun = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        _, status, peak = done.stdout.splitlines()[-1].split()
        with table.open(newline="") as file:
            rows = sum(1 for _ in csv.DictReader(file))
        assert (int(status), rows) == (0, count), done.stderr
        found[f"{count:,} files"] = {
            "peak_rss_mb": round(float(peak), 1),
            "seconds": round(time.perf_counter() - begun),
        }
    claim = (
        "peak resident memory in MB of headstart predict --out on a folder of links to 20 PNG files of 32 x 32 pixels"
    )
    write("predict_many", claim, {"runs": found})


def many_classes(place: Path) -> None:
    draw = np.random.default_rng(0)
    names = ClassNames(tuple(f"a class of some length, {i}" for i in range(1000)))
    images = draw.integers(0, 256, (6000, 64, 64, 3), dtype=np.uint8)
    arrays = Arrays(images[:4000], np.arange(4000) % 1000, images[4000:], np.arange(2000) % 1000)
    write_store(place / "data", arrays, name="many", class_names=names, source="noise")
    words = [sys.executable, "-m", "headstart", "explore", place / "data", "--out", place / "explored", "--quiet"]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"HEADSTART_HOME": str(place / "home")})
    sizes = {name: (place / "explored" / name).stat().st_size for name in ("explore.html", "explore.json")}
    labels = np.arange(50_000) % 1000
    logits = draw.normal(size=(50_000, 1000)).astype(np.float32)
    run = place / "run"
    run.mkdir()
    hashes = [draw.bytes(32).hex() for _ in labels]
    probabilities = SINGLE_LABEL.probabilities(logits, temperature=1.0)
    Run(run).write_predictions(TestPredictions(np.arange(50_000), hashes, labels, Predictions(probabilities, names)))
    figures = SINGLE_LABEL.measure(logits, labels, names=names.names, temperature=1.0).to_dict()
    write_json(run / "metrics.json", {"val": figures, "test": figures})
    sizes |= {path.name: path.stat().st_size for path in run.iterdir()}
    megabytes = {name: round(size / 1e6, 2) for name, size in sorted(sizes.items())}
    claim = "MB of files with 1,000 classes: exploring 6,000 images of noise; 50,000 test images, predicted by chance"
    write(
        "many_classes",
        claim,
        {
            "megabytes": megabytes,
            "predictions": round(megabytes["predictions.csv"] + megabytes["predictions.npz"], 2),
            "asked": {"explore.html": 5, "predictions": 60},
        },
    )


def main() -> None:
    measures = {measure.__name__: measure for measure in (predict_memory, predict_many, many_classes)}
    for measure in [measures[name] for name in sys.argv[1:]] or measures.values():
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch))


if __name__ == "__main__":
    main()
