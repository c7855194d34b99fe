"""Measure a recipe on training images 10,000 to 16,000, which a study of the first 10,000 leaves alone.

python benchmarks/measure_choices.py study/seed-2/best/recipe.yaml "learning rate" finetune.lr=3e-4

What a stage of the study's plan holds is settled with this and never on the test split. The figure goes into
benchmarks/results/held-out.json, beside the others of the same choice.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import headstart
from headstart.data.dataset import load_dataset
from headstart.recipe import load_recipe
from headstart.training.hardware import describe_hardware
from headstart.yaml_input import read_overrides

RESULT = Path(__file__).parent / "results" / "held-out.json"
HELD_OUT = slice(10_000, 16_000)


def measured(recipe: str, overrides: dict) -> dict:
    """Return what a recipe with overrides reaches on the images held out."""
    resolved = load_recipe(recipe)
    assert resolved.data.limit == HELD_OUT.start, "a study of other images may have trained on those held out"
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        headstart.train(resolved.data.name, recipe, overrides=overrides, out=run, sealed=True)
        train = load_dataset(resolved.data.name).train
        predictions = headstart.load(run / "model").predict(train.images[HELD_OUT])
    right = int((predictions.indices == train.labels[HELD_OUT]).sum())
    return {
        "accuracy": round(right / len(predictions), 4),
        "n": len(predictions),
        "backbone": resolved.backbone,
        "seed": resolved.seed,
    }


def main(recipe: str, choice: str, *words: str) -> None:
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {"choices": []}
    found |= {
        "claim": "accuracy on training images 10,000 to 16,000, by which the study's plan was settled",
        "command": "python benchmarks/measure_choices.py RECIPE CHOICE [KEY=VALUE...]",
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
    }
    found["choices"].append({"choice": choice, "set": list(words), **measured(recipe, read_overrides(words))})
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found["choices"][-1]))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
