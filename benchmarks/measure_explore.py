"""Time `headstart explore cifar10`, on 10,000 training images and on all, and write benchmarks/results/explore.json.

python benchmarks/measure_explore.py
python benchmarks/measure_explore.py --peaks 10     the peak memory of ten runs, in explore-memory.json

Feature caches of earlier runs are not used: each run gets an empty one beside the downloaded data set.
"""

import argparse
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


def peaks(count: int) -> None:
    """Record the peak memory of several runs on 10,000 training images."""
    case = "10,000 training images"
    found = [explored(CASES[case])["peak_rss_mb"] for _ in range(count)]
    write(
        "explore-memory.json",
        claim="peak resident memory in MB of headstart explore cifar10 --limit 10000, run after run",
        command=f"python benchmarks/measure_explore.py --peaks {count}",
        measured={"peak_rss_mb": found, "worst": max(found), "asked": 1500},
    )


def write(name: str, *, claim: str, command: str, measured: dict) -> None:
    result = {
        "claim": claim,
        "command": command,
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        **measured,
    }
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peaks", type=int, help="measure the peak memory of so many runs instead")
    if count := parser.parse_args().peaks:
        return peaks(count)
    return write(
        "explore.json",
        claim="headstart explore cifar10: wall time of the whole command, duplicates included, and what it finds",
        command="python benchmarks/measure_explore.py",
        measured={"runs": {case: explored(options) for case, options in CASES.items()}},
    )


if __name__ == "__main__":
    main()
