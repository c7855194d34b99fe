"""The feature cache gives each network its own features, and never any that are damaged."""

import errno
import json
import logging
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.compute.device import describe_hardware
from headstart.contracts import ClassNames
from headstart.data import kept_array
from headstart.data import preprocess as preprocessing
from headstart.data.array_file import read_array
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.errors import WriteError
from headstart.features import cache as features
from headstart.features.cache import FrozenBackbone, frozen_features
from headstart.models import fold, heads
from headstart.models.backbones import load_backbone
from headstart.models.fold import fold_batch_norm
from headstart.models.heads import build_classifier

PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
NAMES = ClassNames(("a", "b"))


@pytest.fixture
def backbone():
    return made_backbone()


def made_backbone(architecture="test_efficientnet", **head):
    loaded = load_backbone(architecture, weights="none")
    classifier = build_classifier(loaded, **({"num_classes": 10, "seed": 0} | head)).eval()
    return FrozenBackbone(classifier, architecture, "abc", PREPROCESS, torch.contiguous_format)


@pytest.fixture
def images(sample):
    return np.array(sample.train.source.array[:24])


def squares_of(images, preprocess=PREPROCESS):
    return working_copy(Subset.whole(ArraySource(images, np.zeros(len(images), np.int64), NAMES), "train"), preprocess)


def compute(backbone, images, **options):
    return frozen_features(backbone, squares_of(images, backbone.preprocess), **options)


def entries(home):
    return sorted((home / "features").glob("*.npy"))


@pytest.fixture
def computed(monkeypatch):
    """One entry for each time that features are computed."""
    calls, really = [], features._compute
    monkeypatch.setattr(features, "_compute", lambda *given: (calls.append(given), really(*given))[1])
    return calls


def test_a_second_pass_is_read_from_the_disk(own_home, backbone, images, computed):
    counts = []
    first = compute(backbone, images, advance=counts.append)
    assert first.values.shape[0] == sum(counts) == 24
    assert first.cached_seconds == 0
    again = compute(backbone, images, advance=counts.append)
    assert sum(counts) == 48
    assert np.array_equal(again.values, first.values)
    assert isinstance(again.values, np.memmap), "what is on the disk is not loaded before it is used"
    assert again.cached_seconds > 0, "the run that reads them says what they cost"
    assert len(computed) == len(entries(own_home)) == 1
    assert json.loads(json.dumps(read_array(entries(own_home)[0]).facts)).keys() == {"seconds", "decided_by"}


def with_tf32(device):
    return describe_hardware(device) | {"tf32": True}


def changes(monkeypatch):
    """Each thing that decides the features, and how it changes."""
    return {
        "architecture": lambda b: replace(b, architecture="tf_test_efficientnet"),
        "weights": lambda b: replace(b, weights_sha256="abd"),
        "size": lambda b: replace(b, preprocess=PREPROCESS.resized(40)),
        "fit": lambda b: replace(b, preprocess=replace(PREPROCESS, fit="pad")),
        "memory format": lambda b: replace(b, memory_format=torch.channels_last),
        "batch size": lambda b: replace(b, batch_size=32),
        "folded": lambda b: fold_batch_norm(b.module) and b,
        "threads": lambda b: monkeypatch.setattr(torch, "get_num_threads", lambda: 7) or b,
        "torch": lambda b: monkeypatch.setattr(torch, "__version__", "9.9") or b,
        "timm": lambda b: monkeypatch.setattr(features, "version", lambda _: "9.9") or b,
        "processor": lambda b: monkeypatch.setattr(features, "describe_hardware", lambda _: {"cpu": "other"}) or b,
        "TF32": lambda b: monkeypatch.setattr(features, "describe_hardware", with_tf32) or b,
        "resampling code": lambda b: monkeypatch.setattr(preprocessing, "CODE_VERSION", 99) or b,
        "folding code": lambda b: monkeypatch.setattr(fold, "CODE_VERSION", 99) or b,
        "head code": lambda b: monkeypatch.setattr(heads, "CODE_VERSION", 99) or b,
        "feature code": lambda b: monkeypatch.setattr(features, "CODE_VERSION", 99) or b,
    }


@pytest.mark.parametrize("what", [*changes(None), "images", "mirror"])
def test_everything_that_decides_features_is_the_key(own_home, backbone, images, monkeypatch, what):
    compute(backbone, images)
    if what == "images":
        images[3, 5, 5, 0] ^= 1
    elif what != "mirror":
        backbone = changes(monkeypatch)[what](backbone)
    compute(backbone, images, mirror=what == "mirror")
    assert len(entries(own_home)) == 2


def test_networks_that_share_a_weights_file_do_not_share_features(own_home, images, computed):
    """The tf_ variants of timm's EfficientNets have the tensors of the plain ones, and pad otherwise."""
    plain, tensorflow = (made_backbone(name) for name in ("efficientnet_b0", "tf_efficientnet_b0"))
    tensorflow.module.load_state_dict(plain.module.state_dict())
    first, other = (compute(backbone, images[:4]).values for backbone in (plain, tensorflow))
    assert len(computed) == 2
    assert not np.allclose(first, other, rtol=0.01, atol=0)


def test_features_are_gathered_into_memory_in_order(own_home, backbone, images, monkeypatch):
    plain, mirrored = (compute(backbone, images, mirror=mirror).values for mirror in (False, True))
    released = []
    monkeypatch.setattr(features, "BLOCK", 7)
    monkeypatch.setattr(features, "release", released.append)
    found = features.in_memory([plain, mirrored])
    assert np.array_equal(found.numpy(), np.concatenate([plain, mirrored]))
    assert len(released) == 8  # blocks of 7, 7, 7 and 3 images of each


def test_the_head_does_not_decide(own_home, images, computed):
    compute(made_backbone(), images)
    compute(made_backbone(num_classes=3, hidden=(8,), dropout=0.3, seed=1), images)
    assert len(computed) == 1


def test_mirrored_features_are_those_of_mirrored_images(own_home, backbone, images):
    mirrored = compute(backbone, images, mirror=True).values
    assert np.allclose(mirrored, compute(backbone, np.ascontiguousarray(images[:, :, ::-1])).values, atol=1e-5)


def damaged(content, kind):
    flipped = bytearray(content)
    if isinstance(kind, float):
        flipped[int(kind * (len(content) - 1))] ^= 4
        return bytes(flipped)
    return {"empty": b"", "cut": content[:-200], "short": content[:30], "longer": content + b"\n", "odd": b"x" * 500}[
        kind
    ]


@pytest.mark.parametrize("kind", [0.0, 0.001, 0.003, 0.5, 0.97, 0.99, 1.0, "empty", "cut", "short", "longer", "odd"])
def test_a_damaged_entry_is_computed_again_with_one_warning(own_home, backbone, images, computed, caplog, kind):
    expected = np.array(compute(backbone, images).values)
    (entry,) = entries(own_home)
    entry.write_bytes(damaged(entry.read_bytes(), kind))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(compute(backbone, images).values, expected)
        assert np.array_equal(compute(backbone, images).values, expected)
    assert len(computed) == 2
    assert [str(entry) in record.getMessage() for record in caplog.records] == [True]


def test_an_entry_under_a_name_that_is_not_its_own_is_computed_again(own_home, backbone, images, computed, caplog):
    compute(backbone, images)
    (first,) = entries(own_home)
    expected = np.array(compute(backbone, images, mirror=True).values)
    (other,) = set(entries(own_home)) - {first}
    other.write_bytes(first.read_bytes())
    assert np.array_equal(compute(backbone, images, mirror=True).values, expected)
    assert len(computed) == 3
    assert str(other) in caplog.text


def test_an_entry_that_vanishes_is_neither_missed_nor_brought_back_empty(own_home, backbone, images, monkeypatch):
    expected = np.array(compute(backbone, images).values)
    (entry,) = entries(own_home)

    def read_and_evict(path):
        stored = read_array(path)
        path.unlink()
        return stored

    monkeypatch.setattr(kept_array, "read_array", read_and_evict)
    assert np.array_equal(compute(backbone, images).values, expected)
    assert not entry.exists()


def test_features_that_are_evicted_as_soon_as_they_are_written_are_there_all_the_same(
    own_home, backbone, images, monkeypatch
):
    expected = np.array(compute(backbone, images).values)
    monkeypatch.setattr(kept_array, "read_array", lambda path: path.unlink(missing_ok=True))
    assert np.array_equal(compute(backbone, images).values, expected)


def test_a_full_cache_forgets_what_was_not_used_for_longest(own_home, backbone, images, monkeypatch):
    parts = [images[start : start + 8] for start in (0, 8, 16)]
    compute(backbone, parts[0])
    (first,) = entries(own_home)
    compute(backbone, parts[1])
    (second,) = set(entries(own_home)) - {first}
    for path, age in ((first, 200), (second, 100)):
        os.utime(path, (time.time() - age, time.time() - age))
    compute(backbone, parts[0])  # so that it is now the second that was not used for longest
    monkeypatch.setattr(features, "CACHE_BYTES", int(2.5 * first.stat().st_size))
    compute(backbone, parts[2])
    assert len(entries(own_home)) == 2
    assert first.exists()
    assert not second.exists()


def test_what_a_killed_process_left_half_written_is_swept(own_home, backbone, images):
    compute(backbone, images[:8])
    leftover = own_home / "features" / ".0123.npy-0a1b2c3d"
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    compute(backbone, images[8:])
    assert not leftover.exists()


def test_a_cache_that_can_not_be_written_is_an_error_with_a_remedy(own_home, backbone, images, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_array, "new_array", full)
    with pytest.raises(WriteError, match=r"No space left.*HEADSTART_HOME") as error:
        compute(backbone, images)
    assert error.value.exit_status == 1
    assert str(own_home / "features") in str(error.value)
