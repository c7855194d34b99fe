"""Time `headstart explore cifar10`, on 10,000 training images and on all, and write benchmarks/results/explore.json.

python benchmarks/measure_explore.py

Feature caches of earlier runs are not used: each run gets an empty one beside the downloaded data set.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from headstart.compute.device import describe_hardware
from headstart.home import cache_home

CASES = {"10,000 training images": ["--limit", "10000"], "all 50,000 training images": []}


def explored(options: list[str]) -> dict:
    """Return what one run of the command found, and how long it took as a whole."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "datasets").symlink_to(cache_home() / "datasets")
        command = [sys.executable, "-m", "headstart", "explore", "cifar10", *options, "--out", str(place / "explored")]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--json"], check=True, capture_output=True, env=os.environ | {"HEADSTART_HOME": scratch}
        )
        seconds = time.perf_counter() - start
    found = json.loads(done.stdout)
    near = found["duplicates"]["near"]
    return {
        "seconds": round(seconds, 1),
        "seconds_inside": found["seconds"],
        "peak_rss_mb": found["peak_rss_mb"],
        "train": {key: found["train"][key] for key in ("n", "mean", "std")},
        "test": {key: found["test"][key] for key in ("n", "mean", "std")},
        "exact_duplicates": found["duplicates"]["exact"]["images"],
        "near_duplicate_pairs": near["pairs"],
        "test_images": found["duplicates"]["test_images"],
    }


def main() -> None:
    result = {
        "claim": "headstart explore cifar10: wall time of the whole command, duplicates included, and what it finds",
        "command": "python benchmarks/measure_explore.py",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        "runs": {case: explored(options) for case, options in CASES.items()},
    }
    path = Path(__file__).parent / "results" / "explore.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
