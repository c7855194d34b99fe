"""An evaluated run, made without a network: what tests of the report and of the page start from."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest

from headstart.contracts import ClassNames, Predictions
from headstart.data.arrays import image_hashes
from headstart.data.dataset import SealedTest
from headstart.data.sources.memory import ArraySource
from headstart.data.splits import build_manifest
from headstart.data.subset import Subset
from headstart.deployment.graph import WholeClassifier, to_onnx
from headstart.runs.predictions import TestPredictions
from headstart.runs.run import Run
from headstart.tasks.metrics import SplitMetrics
from headstart.tasks.single_label import SINGLE_LABEL
from made_run import random_bundle

ANIMALS = ("cat", "dog", "bird", "frog")


@dataclass
class EvaluatedRun:
    """A run folder as training and evaluation leave it, made without a network."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    predictions: Predictions
    metrics: SplitMetrics
    pictures_asked: list[int] = field(default_factory=list)

    @property
    def run(self):
        return Run(self.path)

    def picture(self, row):
        self.pictures_asked.append(row)
        return self.images[row]

    def change(self, name, **values):
        """Rewrite a JSON file of the run with other values."""
        content = json.loads((self.path / name).read_text())
        (self.path / name).write_text(json.dumps(content | values))


@pytest.fixture
def make_evaluated_run(tmp_path):
    """Return a function that makes an evaluated run; ``strength`` 1 is a fair classifier, 50 a perfect one."""

    def make(*, names=ANIMALS, n=240, strength=1.0, epochs=4, name="a-run", uneven=False):
        run = tmp_path / name
        run.mkdir()
        generator = np.random.default_rng(7)
        classes = ClassNames(tuple(names))
        images = generator.integers(0, 256, (2 * n, 32, 32, 3), dtype=np.uint8)
        # Uneven: half of the images and more are of the last class.
        labels = np.minimum(np.arange(2 * n, dtype=np.int64) % ((1 + uneven) * len(names)), len(names) - 1)
        logits = generator.normal(size=(2 * n, len(names)))
        logits[np.arange(2 * n), labels] += 2 * strength
        logits = (3 * logits).astype(np.float32)
        source, test_source = (ArraySource(images[p], labels[p], classes) for p in (slice(0, n), slice(n, None)))
        train, val = Subset(source, np.arange(n // 4, n), "train"), Subset(source, np.arange(n // 4), "val")
        manifest = build_manifest(train, val, SealedTest(Subset.whole(test_source, "test")))
        manifest.write(run / "split_manifest.csv")
        val, test = (
            SINGLE_LABEL.measure(logits[part], labels[part], names=classes.names, temperature=1.5)
            for part in (slice(0, n // 4), slice(n, None))
        )
        predictions = Predictions(SINGLE_LABEL.probabilities(logits[n:], temperature=1.5), classes)
        hashes = image_hashes(images[n:])
        Run(run).write_predictions(TestPredictions(np.arange(n), hashes, labels[n:], predictions))
        (run / "metrics.json").write_text(json.dumps(METRICS | {"val": val.to_dict(), "test": test.to_dict()}))
        (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
        (run / "recipe.yaml").write_text("data:\n  name: animals\nseed: 3\nfinetune:\n  lr: 0.001\n")
        (run / "history.csv").write_text("\n".join([HISTORY[0], *HISTORY[1 : epochs + 1]]) + "\n")
        return EvaluatedRun(run, images[n:], labels[n:], predictions, test)

    return make


METRICS = {
    "temperature": 1.5,
    "train_seconds": 163.2,
    "total_seconds": 191.7,
    "train_images_per_second": 181.5,
    "backbone": "tf_efficientnet_lite0.in1k",
    "device": "cpu",
    "precision": "fp32",
    "seed": 3,
    "peak_rss_mb": 1421.0,
    "best_epoch": 3,
    "probe_val_accuracy": 0.8123,
}
ENVIRONMENT = {
    "versions": {"headstart": "0.1.0", "torch": "2.9.0"},
    "hardware": {"cpu": "A processor of 2 cores", "cores": 2, "ram_gb": 7.8, "device": "cpu"},
    "threads": 2,
    "data": {"name": "animals", "sha256": "ab" * 32, "source": "a folder", "limit": None},
    "weights": {"source": "package", "origin": "a package", "sha256": "cd" * 32, "unmatched": []},
    "seed": 3,
    "command": "headstart train animals --out runs/a-run",
    "started": "2026-05-04T10:11:12+00:00",
    "test_openings": [{"time": "2026-05-04T10:14:22+00:00", "command": "headstart train animals"}],
}
HISTORY = (
    "epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate,image_size,seconds,images_per_second",
    "1,0.8123,0.7512,0.3911,0.882,0.0003,128,52.1,172.7",
    "2,0.5011,0.8433,0.2633,0.913,0.00018,128,50.9,176.8",
    "3,0.4123,0.8701,0.2211,0.929,0.00006,160,60.2,149.5",
    "4,0.3902,0.8775,0.2239,0.928,0.00001,160,60.5,148.8",
)


@pytest.fixture(scope="session")
def plain_classifier():
    """A classifier with random weights that sees no mirror images."""
    return WholeClassifier(random_bundle(ClassNames(("cat", "dog", "bird")), flip=False))


@pytest.fixture(scope="session")
def graph(plain_classifier, once):
    """Its graph; tests change copies."""
    made = once("graph", lambda folder: onnx.save(to_onnx(plain_classifier), folder / "model.onnx"))
    return onnx.load(made / "model.onnx")
