"""The novelty score: what it finds on made-up features, and how it travels in a bundle."""

import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from headstart.bundle.novelty import read_novelty, write_novelty
from headstart.contracts import ClassNames
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import BundleError
from headstart.evaluation import novelty as room
from headstart.evaluation.novelty import fit_novelty, reference_images

WIDTH = 24


def clusters(n, classes=3, seed=0):
    """Features around one direction per class."""
    generator = np.random.default_rng(seed)
    centres = np.eye(WIDTH)[:classes] * 5
    labels = np.arange(n) % classes
    return (centres[labels] + generator.normal(0, 0.5, (n, WIDTH))).astype(np.float32), labels.astype(np.int64)


@pytest.fixture
def fitted():
    features, labels = clusters(300)
    return fit_novelty(features, labels, clusters(100, seed=1)[0])


def scores(novelty, features):
    return novelty.score(torch.from_numpy(features.astype(np.float32))).numpy()


def test_what_lies_far_off_and_what_lies_between_classes_is_unfamiliar(fitted):
    known = scores(fitted, clusters(1000, seed=2)[0])
    assert fitted.false_alarms <= 0.05
    assert (known > fitted.threshold).mean() < 0.1
    far = np.eye(WIDTH)[10:15] * 5
    between = np.eye(WIDTH)[[0, 1, 2]] + np.eye(WIDTH)[[1, 2, 0]]
    assert (scores(fitted, far) > fitted.threshold).all()
    assert (scores(fitted, between) > fitted.threshold).all()


def test_the_length_of_the_features_does_not_count(fitted):
    features = clusters(20, seed=3)[0]
    np.testing.assert_allclose(scores(fitted, features), scores(fitted, features * 7), rtol=1e-3, atol=1e-4)


def test_the_score_in_numpy_is_that_in_torch(fitted):
    features = np.concatenate([clusters(200, seed=4)[0], np.eye(WIDTH, dtype=np.float32) * 3])
    np.testing.assert_allclose(fitted.arrays().score(features), scores(fitted, features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n", "classes"), [(2, 2), (4, 2), (6, 3)])
def test_few_images_and_copies_give_a_finite_score(n, classes):
    features, labels = clusters(n, classes)
    novelty = fit_novelty(features, labels, features)
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
    back = read_novelty(tmp_path, num_classes=3).to(torch.device("cpu"))
    features = clusters(20, seed=3)[0]
    np.testing.assert_array_equal(scores(back, features), scores(fitted, features))
    assert (back.threshold, back.false_alarms, back.neighbours) == (fitted.threshold, fitted.false_alarms, 5)


def test_a_file_of_the_first_format_whose_reference_has_all_axes_gives_its_score(fitted, tmp_path):
    whole = fitted.tensors["reference"] @ fitted.tensors["axes"].T
    parts = {name: part.numpy() for name, part in fitted.tensors.items() if name != "axes"}
    facts = {"format": "1", "neighbours": "5", "threshold": "1.5", "false_alarms": "0.05"}
    (tmp_path / "novelty.safetensors").write_bytes(save({**parts, "reference": whole.half().numpy()}, metadata=facts))
    back = read_novelty(tmp_path, num_classes=3).to(torch.device("cpu"))
    features = clusters(20, seed=3)[0]
    np.testing.assert_allclose(scores(back, features), scores(fitted, features), atol=0.05)
    assert back.threshold == 1.5


def test_neighbours_are_found_along_few_axes(monkeypatch):
    monkeypatch.setattr(room, "_AXES", 4)
    features, labels = clusters(300)
    novelty = fit_novelty(features, labels, clusters(100, seed=1)[0])
    assert novelty.tensors["axes"].shape == (WIDTH, 4)
    assert (scores(novelty, clusters(1000, seed=2)[0]) > novelty.threshold).mean() < 0.1
    assert (scores(novelty, np.eye(WIDTH)[10:15] * 5) > novelty.threshold).all()


@pytest.mark.parametrize("damage", ["missing", "cut", "classes"])
def test_a_file_that_does_not_fit_is_named(fitted, tmp_path, damage):
    write_novelty(tmp_path, fitted)
    path = tmp_path / "novelty.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        os.truncate(path, 100)
    with pytest.raises(BundleError, match=r"novelty\.safetensors .*headstart\.novelty"):
        read_novelty(tmp_path, num_classes=4 if damage == "classes" else 3)
