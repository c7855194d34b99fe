"""The novelty score: what it finds on made-up features, and how it travels in a bundle."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.bundle.folder import load_bundle, save_bundle
from headstart.bundle.novelty import parts_in, read_novelty, score_in, write_novelty
from headstart.contracts import ClassNames
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import BundleError, EarlierScoreError
from headstart.evaluation import novelty as room
from headstart.evaluation.novelty import fit_novelty, reference_images
from headstart.inference.artifact import Outputs
from made_run import random_bundle

WIDTH = 24


def clusters(n, classes=3, seed=0):
    """Features around one direction per class."""
    generator = np.random.default_rng(seed)
    centres = np.eye(WIDTH)[:classes] * 5
    labels = np.arange(n) % classes
    return (centres[labels] + generator.normal(0, 0.5, (n, WIDTH))).astype(np.float32), labels.astype(np.int64)


def outputs(features, classes=3):
    """What a head gives that looks at the direction of each class."""
    features = features.astype(np.float32)
    return Outputs(features[:, :classes], features=features)


@pytest.fixture
def fitted():
    features, labels = clusters(300)
    return fit_novelty(features, labels, outputs(clusters(100, seed=1)[0]))


def scores(novelty, features):
    found = outputs(features)
    return novelty.score(found.features, found.logits)


def parts(novelty, features):
    found = outputs(features)
    return parts_in(np, novelty.arrays, found.features, found.logits)


def test_what_lies_far_off_and_what_lies_between_classes_is_unfamiliar(fitted):
    known = scores(fitted, clusters(1000, seed=2)[0])
    assert fitted.false_alarms <= 0.05
    assert (known > fitted.threshold).mean() < 0.1
    far = np.eye(WIDTH)[10:15] * 5
    between = np.eye(WIDTH)[[0, 1, 2]] + np.eye(WIDTH)[[1, 2, 0]]
    assert (scores(fitted, far) > fitted.threshold).all()
    assert (scores(fitted, between) > fitted.threshold).all()


def test_each_part_finds_what_it_is_for(fitted):
    known = parts(fitted, clusters(200, seed=3)[0])
    highest = known.max(axis=0)
    far = parts(fitted, np.eye(WIDTH)[[20]] * 5)[0]
    between = parts(fitted, np.eye(WIDTH)[[0]] * 4 + np.eye(WIDTH)[[1]] * 4)[0]
    faint = parts(fitted, np.eye(WIDTH)[[0]])[0]
    assert far[0] > highest[0]
    assert between[1] > highest[1]
    assert faint[2] > highest[2]
    assert faint[0] < highest[0]
    # Only the last part knows how long the features are.
    longer = parts(fitted, 7 * clusters(200, seed=3)[0])
    np.testing.assert_allclose(longer[:, :2], known[:, :2], rtol=1e-3, atol=1e-4)
    assert (longer[:, 2] < known[:, 2]).all()


def test_the_score_in_numpy_is_that_in_torch(fitted):
    found = outputs(np.concatenate([clusters(200, seed=4)[0], np.eye(WIDTH) * 3, np.zeros((1, WIDTH))]))
    tensors = {name: torch.from_numpy(array) for name, array in fitted.arrays.items()}
    in_torch = score_in(torch, tensors, torch.from_numpy(found.features), torch.from_numpy(found.logits))
    assert in_torch.dtype == torch.float32
    np.testing.assert_allclose(fitted.score(found.features, found.logits), in_torch.numpy(), atol=1e-4, rtol=1e-5)


def test_threads_do_not_limit_the_process_at_once(fitted, monkeypatch):
    inside, most = [], []

    class Limit:
        def limit(self, **_):
            return self

        def __enter__(self):
            inside.append(self)
            most.append(len(inside))
            time.sleep(0.05)

        def __exit__(self, *_):
            inside.pop()

    monkeypatch.setattr("headstart.bundle.novelty._linear_algebra", Limit)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: scores(fitted, clusters(9)[0]), range(2)))
    assert most == [1, 1]


def test_the_nearest_class_is_that_by_all_distances(fitted):
    found = outputs(clusters(50, seed=5)[0])
    arrays = {name: array.astype(np.float64) for name, array in fitted.arrays.items()}
    directions = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    place = directions @ arrays["projection"] - arrays["middle"]
    nearest = ((place[:, None] - arrays["means"]) ** 2).sum(axis=2).min(axis=1)
    expected = nearest - (arrays["weights"] * place**2).sum(axis=1)
    np.testing.assert_allclose(parts(fitted, found.features)[:, 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("n", "classes"), [(2, 2), (4, 2), (6, 3)])
def test_few_images_and_copies_give_a_finite_score(n, classes):
    features, labels = clusters(n, classes)
    novelty = fit_novelty(features, labels, outputs(features))
    assert np.isfinite(scores(novelty, features)).all()
    assert np.isfinite(novelty.threshold)


def test_the_reference_holds_as_many_of_each_class_in_any_order(monkeypatch):
    monkeypatch.setattr(room, "REFERENCE_IMAGES", 12)
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], [40, 18, 2]).astype(np.int64)
    names = ClassNames(("a", "b", "c"))
    order = np.random.default_rng(1).permutation(60)
    one, other = (
        reference_images(Subset.whole(ArraySource(images[rows], labels[rows], names), "train"))
        for rows in (np.arange(60), order)
    )
    assert np.bincount(one.labels).tolist() == [5, 5, 2]
    assert sorted(one.identities) == sorted(other.identities)


def test_the_score_comes_back_from_its_file(fitted, tmp_path):
    write_novelty(tmp_path, fitted)
    back = read_novelty(tmp_path, num_classes=3)
    features = clusters(20, seed=3)[0]
    np.testing.assert_array_equal(scores(back, features), scores(fitted, features))
    assert (back.threshold, back.false_alarms) == (fitted.threshold, fitted.false_alarms)


def test_a_bundle_with_the_score_of_an_earlier_version_is_read_without_it(fitted, tmp_path, caplog):
    bundle = replace(random_bundle(ClassNames(("a", "b", "c"))), novelty=fitted)
    save_bundle(bundle, tmp_path / "model")
    file = tmp_path / "model" / "novelty.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"format":"2"', b'"format":"1"'))
    assert load_bundle(tmp_path / "model").novelty is None
    assert "headstart evaluate" in caplog.text
    with pytest.raises(EarlierScoreError, match="earlier version"):
        read_novelty(tmp_path / "model", num_classes=3)


@pytest.mark.parametrize("damage", ["missing", "cut", "classes", "facts"])
def test_a_file_that_does_not_fit_is_named(fitted, tmp_path, damage):
    write_novelty(tmp_path, fitted)
    path = tmp_path / "novelty.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        os.truncate(path, 100)
    elif damage == "facts":
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        head = json.dumps(json.loads(content[8:end]) | {"__metadata__": None}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[end:])
    with pytest.raises(BundleError, match=r"novelty\.safetensors .*headstart\.novelty"):
        read_novelty(tmp_path, num_classes=4 if damage == "classes" else 3)
