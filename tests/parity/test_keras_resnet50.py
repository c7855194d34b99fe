"""The study's network gives Keras's own logits: `benchmarks/keras_parity.py` made the reference under Keras."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from headstart.models.backbones import load_backbone

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "keras-parity.json"
TOLERANCE = 1e-3


def pictures():
    """Cut the eight squares that the reference was made from: normalised later, uint8, shape (8, 3, 224, 224)."""
    from sklearn.datasets import load_sample_images

    corners = [(0, 0), (101, 208), (203, 416), (203, 100)]
    crops = [image[y : y + 224, x : x + 224] for image in load_sample_images().images for y, x in corners]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def relative_error(ours, theirs):
    return float((np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)).max())


@pytest.fixture
def references():
    """Keras's logits of the pictures, shape (8, 1000), under the names of the backbones."""
    return np.load(HERE / "keras_resnet50_logits.npz")


def normalised(preprocess):
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return (pictures().float() / 255 - mean) / std


@pytest.mark.slow
@pytest.mark.npm
@pytest.mark.parametrize("name", ["resnet50v1.keras_in1k", "resnet50v1.keras3_in1k"])
def test_logits_equal_those_of_keras_on_real_pictures(name, references):
    backbone = load_backbone(name, keep_classifier=True)
    keras = references[name]
    assert keras.shape == (8, 1000)
    # The two differ by more than the tolerance, or one of them would be no test.
    assert relative_error(references["resnet50v1.keras_in1k"], references["resnet50v1.keras3_in1k"]) > 2 * TOLERANCE
    with torch.inference_mode():
        ours = backbone.module(normalised(backbone.preprocess)).numpy()
    assert relative_error(ours, keras) < TOLERANCE
    palace, daisy = 698, 985
    assert list(ours.argmax(axis=1)[[0, 1, 7]]) == [palace, palace, daisy]


@pytest.mark.slow
@pytest.mark.npm
def test_timm_s_own_resnet50_takes_the_tensors_and_answers_otherwise(references):
    # Why the network needs an architecture of its own.
    name = "resnet50v1.keras_in1k"
    backbone = load_backbone(name, keep_classifier=True)
    plain = timm.create_model("resnet50").eval()
    plain.load_state_dict(backbone.module.state_dict(), strict=True)
    with torch.inference_mode():
        assert relative_error(plain(normalised(backbone.preprocess)).numpy(), references[name]) > 100 * TOLERANCE


def test_the_committed_measurement_is_within_tolerance():
    result = json.loads(RESULT.read_text())
    assert set(result["figures"]) == {"resnet50v1.keras_in1k", "resnet50v1.keras3_in1k", "h5"}
    for figure in result["figures"].values():
        assert figure["relative_error"] <= result["tolerance"] == TOLERANCE
        assert figure["same_top1"]
