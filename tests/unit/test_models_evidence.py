"""Maps of evidence add up to the logit, in torch and in the exported graph, and are refused where they could not."""

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import torch

from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.deployment.graph import WholeClassifier
from headstart.errors import InputError
from headstart.evaluation.saliency import class_activation_maps
from headstart.inference.judge import box_in_shares
from headstart.inference.predictor import Predictor, load
from headstart.inference.torch_artifact import TorchArtifact
from headstart.models.evidence import has_evidence
from headstart.models.heads import empty_classifier, feature_head
from made_run import PREPROCESS, random_bundle, restate

NAMES = ClassNames(("cat", "dog", "bird"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_the_average_of_a_map_and_the_bias_are_the_logit(architecture, flip, images):
    bundle = random_bundle(NAMES, architecture, flip=flip, preprocess=PREPROCESS.resized(64))
    artifact = TorchArtifact(bundle, device="cpu")
    found = artifact.outputs(images, evidence=True)
    np.testing.assert_allclose(found.logits, artifact.outputs(images).logits, atol=1e-4)
    bias = feature_head(bundle.module).bias.detach().numpy()[found.logits.argmax(1)]
    np.testing.assert_allclose(found.evidence.mean((1, 2)) + bias, found.logits.max(1), rtol=1e-3, atol=1e-3)
    assert found.evidence.shape == (5, 2, 2)
    assert found.features is None


def test_a_single_place_is_no_evidence():
    module = empty_classifier("test_convnext", num_classes=3).eval()
    assert [has_evidence(module, size=size) for size in (32, 64)] == [False, True]


def test_the_map_is_the_one_of_the_report(images):
    bundle = random_bundle(NAMES, flip=True)
    found = Predictor(TorchArtifact(bundle, device="cpu")).predict(images, evidence=True)
    np.testing.assert_allclose(found.evidence, class_activation_maps(bundle, images, found.indices), atol=1e-3)
    assert set(found.evidence.max((1, 2))) <= {0, 1}


@pytest.mark.parametrize(("architecture", "hidden"), [("test_vit", ()), ("test_efficientnet", (8,))])
def test_networks_that_do_more_than_average_have_none(architecture, hidden, images):
    module = empty_classifier(architecture, num_classes=3, hidden=hidden).eval()
    bundle = dataclasses.replace(random_bundle(NAMES), module=module, architecture=architecture, hidden=hidden)
    assert not has_evidence(module, size=bundle.preprocess.size)
    predictor = Predictor(TorchArtifact(bundle, device="cpu"))
    with pytest.raises(InputError, match=f"{architecture} does not average"):
        predictor.predict(images, evidence=True)
    assert predictor.predict(images).evidence is None


def test_features_may_come_last():
    class Last(torch.nn.Module):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def get_classifier(self):
            return self.fc

        def forward_features(self, inputs):
            return torch.nn.functional.avg_pool2d(inputs, 8).permute(0, 2, 3, 1)

        def forward(self, inputs):
            return self.fc(self.forward_features(inputs).mean((1, 2)))

    assert has_evidence(Last().eval(), size=32)


def test_an_export_has_the_maps_of_its_bundle(exported, measured, images):
    sizes = [images[0], np.repeat(images[1], 2, axis=1), images[2][:25, :25]]
    theirs, ours = load(measured.model), load(exported)
    assert theirs.artifact.has_evidence
    assert ours.artifact.has_evidence
    wanted, found = (predictor.predict(sizes, evidence=True) for predictor in (theirs, ours))
    np.testing.assert_allclose(found.evidence, wanted.evidence, atol=1e-3)
    np.testing.assert_array_equal(found.probabilities, ours.predict(sizes).probabilities)


def test_a_graph_has_no_output_where_there_is_no_evidence():
    assert WholeClassifier(random_bundle(NAMES, "test_vit")).output_names == ["probabilities", "logits"]


def test_an_export_of_an_earlier_version_is_loaded_and_says_so(exported, tmp_path, images):
    folder = shutil.copytree(exported, tmp_path / "export")
    model = onnx.load(folder / "model.onnx")
    del model.graph.output[[output.name for output in model.graph.output].index("evidence")]
    onnx.save(model, folder / "model.onnx")
    restate(folder, evidence=None)
    predictor = load(folder)
    np.testing.assert_array_equal(predictor.predict(images).probabilities, load(exported).predict(images).probabilities)
    with pytest.raises(InputError, match="earlier version"):
        predictor.predict(images, evidence=True)


@pytest.mark.parametrize(
    ("fit", "shape", "box"),
    [
        ("crop", (100, 200), (0.1, 0.3, 0.8, 0.4)),
        ("pad", (100, 200), (-0.3, 0.1, 1.6, 0.8)),
        ("stretch", (50, 70), (0.1, 0.1, 0.8, 0.8)),
    ],
)
def test_the_box_is_told_in_shares_of_the_image(fit, shape, box):
    rule = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=0.8, fit=fit)
    assert box_in_shares(rule, np.zeros((*shape, 3), np.uint8)) == pytest.approx(box)
