import os
import time

import numpy as np
import pytest
import torch

from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.features import cache as features
from headstart.features.cache import frozen_features
from headstart.models.backbones import load_backbone
from headstart.models.fold import fold_batch_norm
from headstart.models.heads import build_classifier

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def classifier():
    backbone = load_backbone("test_efficientnet.r160_in1k", weights="none")
    return build_classifier(backbone, num_classes=10, seed=0).eval()


def compute(classifier, images, **options):
    source = ArraySource(images, np.zeros(len(images), np.int64), ClassNames(("a", "b")))
    settings = {"preprocess": PREPROCESS, "weights_sha256": "abc", "memory_format": torch.contiguous_format} | options
    squares = working_copy(Subset.whole(source, "train"), settings["preprocess"])
    return frozen_features(classifier, squares, **settings)


def test_a_second_pass_is_read_from_the_disk(own_home, classifier, sample, monkeypatch):
    images = np.asarray(sample.train.source.array[:100])
    counts = []
    first = compute(classifier, images, advance=counts.append)
    assert first.values.shape[0] == 100
    assert sum(counts) == 100
    assert first.cached_seconds == 0
    assert len(list((own_home / "features").glob("*.npy"))) == 1
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    again = compute(classifier, images)
    assert np.array_equal(again.values, first.values)
    assert again.cached_seconds > 0, "the run that reads them says what they cost"


@pytest.mark.parametrize("change", ["images", "weights", "size", "mirror", "folded"])
def test_images_weights_and_transform_are_the_key(own_home, classifier, sample, change):
    images = np.array(sample.train.source.array[:8])
    compute(classifier, images)
    if change == "images":
        images[3, 5, 5, 0] ^= 1
    options = {
        "images": {},
        "weights": {"weights_sha256": "abd"},
        "size": {"preprocess": Preprocess(40, PREPROCESS.mean, PREPROCESS.std)},
        "mirror": {"mirror": True},
        "folded": {},
    }[change]
    if change == "folded":
        fold_batch_norm(classifier)
    compute(classifier, images, **options)
    assert len(list((own_home / "features").glob("*.npy"))) == 2


def test_features_whose_cost_is_not_known_are_computed_again(own_home, classifier, sample):
    images = np.asarray(sample.train.source.array[:8])
    compute(classifier, images)
    (facts,) = (own_home / "features").glob("*.json")
    facts.unlink()
    assert compute(classifier, images).cached_seconds == 0
    assert compute(classifier, images).cached_seconds > 0


def test_mirrored_features_are_those_of_mirrored_images(own_home, classifier, sample):
    images = np.array(sample.train.source.array[:8])
    mirrored = compute(classifier, images, mirror=True).values
    assert np.allclose(mirrored, compute(classifier, np.ascontiguousarray(images[:, :, ::-1])).values, atol=1e-5)


def test_a_full_cache_forgets_what_was_not_used_for_longest(own_home, classifier, sample, monkeypatch):
    parts = [np.array(sample.train.source.array[start : start + 8]) for start in (0, 8, 16)]
    compute(classifier, parts[0])
    (first,) = (own_home / "features").glob("*.npy")
    compute(classifier, parts[1])
    second = next(path for path in (own_home / "features").glob("*.npy") if path != first)
    for path, age in ((first, 200), (second, 100)):
        os.utime(path, (time.time() - age, time.time() - age))
    compute(classifier, parts[0])  # so that it is now the second that was not used for longest
    monkeypatch.setattr(features, "CACHE_BYTES", 2 * first.stat().st_size)
    compute(classifier, parts[2])
    left = set((own_home / "features").iterdir())
    assert len(left) == 4
    assert {first, first.with_suffix(".json")} < left
    assert not {second, second.with_suffix(".json")} & left
