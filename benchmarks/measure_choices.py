"""Measure a recipe on training images 10,000 to 16,000, which a study of the first 10,000 leaves alone.

python benchmarks/measure_choices.py study/seed-2/best/recipe.yaml "learning rate" finetune.lr=3e-4

For settling what a stage of the study's plan holds without a look at the test split. The figure goes into
benchmarks/results/held-out.json, beside the others of the same choice.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import headstart
from headstart.compute.device import describe_hardware
from headstart.data.dataset import load_dataset
from headstart.recipe.read import read_overrides
from headstart.recipe.schema import load_recipe

RESULT = Path(__file__).parent / "results" / "held-out.json"
HELD_OUT = slice(10_000, 16_000)


def measured(base: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what a recipe, with overrides, reaches on the images held out."""
    recipe = load_recipe(base, read_overrides(words))
    assert recipe.data.limit == HELD_OUT.start, "with other images it may have trained on those held out"
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        headstart.train(recipe, out=run, sealed=True)
        train = load_dataset(recipe.data.name).train
        predictions = headstart.load(run / "model").predict(train.source.array[HELD_OUT])
    right = int((predictions.indices == train.labels[HELD_OUT]).sum())
    return {
        "accuracy": round(right / len(predictions), 4),
        "n": len(predictions),
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
    }


def main(base: str, choice: str, *words: str) -> None:
    """Add one figure to the result file."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    found["choices"].append({"choice": choice, "set": list(words), **measured(base, words)})
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found["choices"][-1]))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
