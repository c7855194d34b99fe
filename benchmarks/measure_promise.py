"""Measure how often the accuracy that is promised for sure predictions is kept, by the size of the validation split.

    python benchmarks/measure_promise.py runs/quickstart/model       # benchmarks/results/promise.json

The classifier of the quickstart predicts training images of CIFAR-10 that it was not trained on. Many times, some of
them are drawn as a validation split that sets the threshold, and the rest say what it is worth: with the threshold that
is shipped, and with the one from which answers are just right often enough on validation.
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headstart
from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset
from headstart.tasks.abstention import TARGETS, Judgement, threshold_for

RESULT = Path(__file__).parent / "results" / "promise.json"
UNUSED = slice(10_000, 22_000)
SIZES, SPLITS = (200, 500, 1000, 5000), 300
Rule = Callable[[float, Judgement], float | None]


def just_reached(target: float, val: Judgement) -> float | None:
    """Return the lowest probability from which the answers are right often enough on validation itself."""
    order = np.argsort(-val.confidence, kind="stable")
    accuracy = np.cumsum(val.right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(accuracy >= target)
    return float(val.confidence[order][reached[-1]]) if len(reached) else None


def measured(rule: Rule, target: float, size: int, judged: Judgement) -> dict[str, float]:
    """Return how often a rule keeps a target, and what it answers, over many validation splits of a size."""
    generator = np.random.default_rng(size)
    accuracies, shares = [], []
    for _ in range(SPLITS):
        order = generator.permutation(len(judged.right))
        val, rest = order[:size], order[size:]
        threshold = rule(target, Judgement(judged.confidence[val], judged.right[val]))
        sure = np.zeros(len(rest), bool) if threshold is None else judged.confidence[rest] >= threshold
        shares.append(sure.mean())
        if sure.any():
            accuracies.append(judged.right[rest][sure].mean())
    return {
        "share_kept": round(1 - sum(bool(accuracy < target) for accuracy in accuracies) / SPLITS, 3),
        "accuracy": round(float(np.mean(accuracies)), 4) if accuracies else 0.0,
        "share_sure": round(float(np.mean(shares)), 3),
        "share_without_any": round(1 - len(accuracies) / SPLITS, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a classifier of the recipe quickstart")
    given = parser.parse_args()
    train = load_dataset("cifar10").train
    found = headstart.load(given.model).predict(train.source.array[UNUSED])
    judged = Judgement(found.probabilities.max(axis=1), found.indices == train.labels[UNUSED])
    rules: dict[str, Rule] = {"shipped": threshold_for, "just reached on validation": just_reached}
    rows: list[dict[str, Any]] = [
        {"validation_images": size, "target": target, "rule": name, **measured(rule, target, size, judged)}
        for size in SIZES
        for target in TARGETS
        for name, rule in rules.items()
    ]
    result = {
        "claim": "how often the accuracy promised for sure predictions is kept, over validation splits that set it",
        "command": "python benchmarks/measure_promise.py runs/quickstart/model",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
        "accuracy": round(float(judged.right.mean()), 4),
        "images": len(judged.right),
        "splits": SPLITS,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
