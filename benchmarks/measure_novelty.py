"""Measure how well a classifier tells images of things it was never shown, and write benchmarks/results/novelty.json.

python benchmarks/measure_novelty.py runs/novelty           # all five pairs; needs Debian's dataset-fashion-mnist
python benchmarks/measure_novelty.py runs/novelty 0 1       # two of them; the others stay in the file as they are
python benchmarks/measure_novelty.py runs/novelty-auto --recipe runs/auto/recipe.yaml --name auto

Near: a classifier is trained with a recipe, quickstart if none is named, on the first 10,000 images of CIFAR-10 without
two classes, and must tell the test images of these two from those of the other eight. The pairs follow the order of the
classes. Far: Fashion-MNIST, noise and drawn textures. How the score is computed was chosen on training images that the
runs did not use, of the first two pairs; nothing was chosen on test images.
"""

import argparse
import gzip
import json
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import headstart
from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.dataset import load_dataset
from headstart.data.sources.arrays import write_store

RESULT = Path(__file__).parent / "results" / "novelty.json"
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
LIMIT, FAR = 10_000, 2000
Images = NDArray[np.uint8]


def fashion(n: int) -> Images:
    with gzip.open(FASHION) as file:
        file.read(16)
        grey = np.frombuffer(file.read(n * 784), np.uint8).reshape(n, 28, 28, 1)
    return np.repeat(grey, 3, axis=3)


def noise(n: int, generator: np.random.Generator) -> Images:
    """Return uniform and normal noise, half of each."""
    uniform = generator.integers(0, 256, (n // 2, 32, 32, 3), dtype=np.uint8)
    normal = np.clip(generator.normal(128, 64, (n - n // 2, 32, 32, 3)), 0, 255).astype(np.uint8)
    return np.concatenate([uniform, normal])


def textures(n: int, generator: np.random.Generator) -> Images:
    """Return gratings, checks, clouds, cells and rings in two random colours."""
    y, x = np.mgrid[0:32, 0:32] / 32
    distance = np.maximum(np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))), 1 / 32)
    found = []
    for kind in np.arange(n) % 5:
        angle, frequency, phase = generator.uniform((0, 2, 0), (np.pi, 8, 2 * np.pi))
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        if kind == 0:
            value = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * along + phase)
        elif kind == 1:
            value = (np.floor(along * frequency + phase) + np.floor(across * frequency + phase)) % 2
        elif kind == 2:
            spectrum = np.fft.fft2(generator.normal(size=(32, 32))) / distance ** generator.uniform(0.5, 1.5)
            value = np.fft.ifft2(spectrum).real
            value = (value - value.min()) / np.ptp(value)
        elif kind == 3:
            seeds = generator.uniform(size=(int(generator.integers(6, 30)), 2))
            near = np.sort(np.hypot(x[..., None] - seeds[:, 0], y[..., None] - seeds[:, 1]), axis=2)
            value = (near[..., 1] - near[..., 0]) / (near[..., 1] - near[..., 0]).max()
        else:
            middle = generator.uniform(size=2)
            value = np.sin(2 * np.pi * frequency * np.hypot(x - middle[0], y - middle[1]) + phase) > 0
        first, second = generator.uniform(0, 255, (2, 3))
        found.append((first + value[..., None] * (second - first)).round().astype(np.uint8))
    return np.stack(found)


def auroc(known: NDArray[np.float32], unknown: NDArray[np.float32]) -> float:
    """Return the probability that an unknown image scores higher than a known one; a tie counts as half."""
    order = np.sort(known)
    below, up_to = (np.searchsorted(order, unknown, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / 2 / (len(known) * len(unknown)))


def measured(place: Path, pair: tuple[int, int], recipe: str) -> dict[str, Any]:
    """Train without a pair of classes, or take the run that is there, and return its figures."""
    cifar = load_dataset("cifar10")
    names = cifar.class_names.names
    train, test = cifar.train, cifar.sealed_test.open()
    kept = np.setdiff1d(np.arange(len(names)), pair)
    label = np.full(len(names), -1, np.int64)
    label[kept] = np.arange(len(kept))
    store = place / f"data-{pair[0]}{pair[1]}"
    if not store.exists():
        place.mkdir(parents=True, exist_ok=True)
        used = label[train.labels[:LIMIT]] >= 0
        tested = label[test.labels] >= 0
        arrays = Arrays(
            np.asarray(train.source.array[:LIMIT])[used],
            label[train.labels[:LIMIT]][used],
            np.asarray(test.source.array)[tested],
            label[test.labels][tested],
        )
        without = f"cifar10-without-{names[pair[0]]}-{names[pair[1]]}"
        write_store(
            store, arrays, name=without, class_names=ClassNames(tuple(names[i] for i in kept)), source="CIFAR-10"
        )
    run = place / f"run-{pair[0]}{pair[1]}"
    metrics = headstart.train(str(store), recipe, out=run, resume=True, progress=False)
    predictor = headstart.load(run / "model")
    found = predictor.predict(test.source.array)
    known = label[test.labels] >= 0
    generator = np.random.default_rng(0)
    far = {"fashion_mnist": fashion(FAR), "noise": noise(FAR, generator), "textures": textures(FAR, generator)}
    seen = {name: predictor.predict(images) for name, images in far.items()}
    return {
        "left_out": [names[i] for i in pair],
        "accuracy": metrics.test.accuracy,
        "near_auroc": round(auroc(found.novelty[known], found.novelty[~known]), 4),
        "near_auroc_of_probability": round(
            auroc(-found.probabilities.max(axis=1)[known], -found.probabilities.max(axis=1)[~known]), 4
        ),
        "far_auroc": {name: round(auroc(found.novelty[known], of.novelty), 4) for name, of in seen.items()},
        "test_false_alarms": round(float(found.unfamiliar[known].mean()), 4),
        "near_marked": round(float(found.unfamiliar[~known].mean()), 4),
        "far_marked": {name: round(float(of.unfamiliar.mean()), 4) for name, of in seen.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="folder for the data and the runs")
    parser.add_argument("pairs", type=int, nargs="*", metavar="PAIR", help="0 to 4; all of them without")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--name", default="quickstart", help="name of the recipe in the record")
    given = parser.parse_args()
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    record |= {
        "claim": "area under the ROC curve of the novelty score, by recipe; medians over the pairs of classes left out",
        "command": "python benchmarks/measure_novelty.py runs/novelty",
    }
    pairs = {tuple(figures["left_out"]): figures for figures in record.get(given.name, {}).get("pairs", [])}
    for number in given.pairs or range(len(PAIRS)):
        figures = measured(given.place, PAIRS[number], given.recipe)
        print(figures, flush=True)
        pairs[tuple(figures["left_out"])] = figures
        found = list(pairs.values())
        far = {name: statistics.median(one["far_auroc"][name] for one in found) for name in found[0]["far_auroc"]}
        record[given.name] = {
            "hardware": describe_hardware(torch.device("cpu")),
            "versions": {name: version(name) for name in ("headstart", "torch", "timm", "numpy")},
            "near_auroc": statistics.median(one["near_auroc"] for one in found),
            "far_auroc": far,
            "pairs": found,
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
