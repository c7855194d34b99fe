"""Compare how long threads may spin while they wait for work, on a quiet and on a shared machine.

    python benchmarks/measure_spin.py runs/quickstart/model                       # PyTorch's threads, of OpenMP
    python benchmarks/measure_spin.py runs/quickstart/model --export exports/fp32  # ONNX Runtime's threads alone

Predicts the same images in child processes, settings interleaved, beside 0, 1 and 6 processes that keep a core busy.
For PyTorch it also trains the quickstart recipe once quiet and once beside one busy process. Writes
benchmarks/results/spin.json; a part that was not measured stays as it is.
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

EXPORT_SETTINGS = {
    "onnxruntime's own": {},
    "20 microseconds": {"session.intra_op.spin_duration_us": "20"},
    "no spinning": {"session.intra_op.allow_spinning": "0"},
}
PREDICT_EXPORT = """
import json, os, sys, time
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = os.cpu_count()
for key, value in json.loads(sys.argv[2]).items():
    options.add_session_config_entry(key, value)
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=["CPUExecutionProvider"])
images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
session.run(["probabilities"], {"images": images})
started, done = time.perf_counter(), 0
while time.perf_counter() - started < 3 or not done:
    session.run(["probabilities"], {"images": images})
    done += 16
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


def images_per_second(code: str, model: Path, setting: dict[str, str]) -> float:
    """Run one of the scripts above; PyTorch's setting is its environment, ONNX Runtime's its second argument."""
    of_export = code is PREDICT_EXPORT
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), json.dumps(setting)],
        env=environment({} if of_export else setting),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def predict(code: str, model: Path, settings: dict[str, dict[str, str]], rounds: int) -> dict[str, dict[str, float]]:
    found = {name: {count: [] for count in BUSY} for name in settings}
    for _ in range(rounds):
        for count in BUSY:
            with neighbours(count):
                for name, setting in settings.items():
                    found[name][count].append(images_per_second(code, model, setting))
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
    parser.add_argument("--export", type=Path, help="measure this export, and nothing of PyTorch")
    options = parser.parse_args()
    path = RESULTS / "spin.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    command = f"python benchmarks/measure_spin.py runs/quickstart/model --rounds {options.rounds}"
    facts = {"hardware": describe_hardware(torch.device("cpu"))}
    if options.export:
        record["onnxruntime"] = {
            "command": f"{command} --export exports/fp32",
            **facts,
            "versions": {name: version(name) for name in ("headstart", "onnxruntime")},
            "predict_images_per_second": predict(PREDICT_EXPORT, options.export, EXPORT_SETTINGS, options.rounds),
        }
    else:
        rates = predict(PREDICT, options.model, SETTINGS, options.rounds)
        quiet, shared = quickstart_seconds(0), quickstart_seconds(1)
        record |= {
            "claim": "images per second through a classifier while other processes keep cores busy, and the quickstart "
            "recipe quiet and beside one busy process",
            "command": command,
            **facts,
            "versions": {name: version(name) for name in ("headstart", "torch", "timm")},
            "predict_images_per_second": rates,
            "quickstart_seconds": {"quiet": quiet, "beside_1": shared, "ratio": round(shared / quiet, 2)},
        }
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
