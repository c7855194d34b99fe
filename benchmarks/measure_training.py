"""Run a recipe through the command line, once a seed, and write what was measured to benchmarks/results/.

    python benchmarks/measure_training.py --name quickstart --seeds 0 1 2 -- --limit 10000 --recipe quickstart
    python benchmarks/measure_training.py --name cpu-best --seeds 0 -- --recipe cpu-best

Data and weights should be there already (any run fetches them); frozen features are removed first, so that nothing that
counts was computed before. Run it on a quiet machine: the times are wall times.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from headstart.home import cache_home

RESULTS = Path(__file__).parent / "results"
FIGURES = ("accuracy", "macro_f1", "nll", "ece", "ece_calibrated")
COSTS = ("train_seconds", "total_seconds", "peak_rss_mb", "train_images_per_second")


def measure(seed: int, arguments: list[str], out: Path) -> dict:
    shutil.rmtree(cache_home() / "features", ignore_errors=True)
    command = ["headstart", "train", "cifar10", *arguments, "--seed", str(seed), "--out", str(out)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    metrics = json.loads((out / "metrics.json").read_text())
    return {
        "seed": seed,
        "val_accuracy": metrics["val"]["accuracy"],
        **{name: metrics["test"][name] for name in (*FIGURES, "accuracy_ci95", "n")},
        **{name: metrics[name] for name in COSTS},
        "abstention": metrics["abstention"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("arguments", nargs="+", help="for headstart train cifar10")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        outs = [folder / f"{options.name}-{seed}" for seed in options.seeds]
        runs = [measure(seed, options.arguments, out) for seed, out in zip(options.seeds, outs, strict=True)]
        environment = json.loads((outs[0] / "environment.json").read_text())
        metrics = json.loads((outs[0] / "metrics.json").read_text())
    result = {
        "claim": f"headstart train cifar10 {' '.join(options.arguments)}: test accuracy and cost",
        "command": f"python benchmarks/measure_training.py --name {options.name} "
        f"--seeds {' '.join(map(str, options.seeds))} -- {' '.join(options.arguments)}",
        "hardware": environment["hardware"] | {"threads": environment["threads"]},
        "versions": environment["versions"],
        "backbone": metrics["backbone"],
        "precision": metrics["precision"],
        "median": {name: statistics.median(run[name] for run in runs) for name in (*FIGURES, *COSTS)},
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
