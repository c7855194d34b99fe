"""Compare how long OpenMP threads may spin at a barrier, on a quiet and on a shared machine.

    python benchmarks/measure_spin.py runs/quickstart/model

Predicts the same images in child processes, settings interleaved, beside 0, 1 and 6 processes that keep a core busy.
Then it trains the quickstart recipe once quiet and once beside one busy process. Writes benchmarks/results/spin.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from headstart.compute.device import describe_hardware
from headstart.home import cache_home

RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "torch's own": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = (0, 1, 6)
PREDICT = """
import sys, time
import numpy as np
import headstart
classifier = headstart.load(sys.argv[1], device="cpu")
images = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
classifier.logits(images[:32])
started, done = time.perf_counter(), 0
while time.perf_counter() - started < 3 or not done:
    classifier.logits(images[done % 256 : done % 256 + 32])
    done += 32
print(done / (time.perf_counter() - started))
"""


@contextmanager
def neighbours(count: int):
    """Keep as many cores busy as there are processes, until the body ends."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def environment(setting: dict[str, str]) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    return own | setting


def images_per_second(model: Path, setting: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(model)],
        env=environment(setting),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def predict(model: Path, rounds: int) -> dict:
    found = {name: {count: [] for count in BUSY} for name in SETTINGS}
    for _ in range(rounds):
        for count in BUSY:
            with neighbours(count):
                for name, setting in SETTINGS.items():
                    found[name][count].append(images_per_second(model, setting))
    return {
        name: {f"beside_{count}": round(statistics.median(rates), 1) for count, rates in by_count.items()}
        for name, by_count in found.items()
    }


def quickstart_seconds(count: int) -> float:
    shutil.rmtree(cache_home() / "features", ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch, neighbours(count):
        command = [sys.executable, "-m", "headstart", "train", "cifar10", "--limit", "10000", "--out", f"{scratch}/run"]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment({}))
        return round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="of predicting with every setting")
    options = parser.parse_args()
    rates = predict(options.model, options.rounds)
    quiet, shared = quickstart_seconds(0), quickstart_seconds(1)
    result = {
        "claim": "images per second through a classifier while other processes keep cores busy, and the quickstart "
        "recipe quiet and beside one busy process",
        "command": f"python benchmarks/measure_spin.py runs/quickstart/model --rounds {options.rounds}",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm")},
        "predict_images_per_second": rates,
        "quickstart_seconds": {"quiet": quiet, "beside_1": shared, "ratio": round(shared / quiet, 2)},
    }
    path = RESULTS / "spin.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
