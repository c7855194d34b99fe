"""Networks of every family are exported, as a graph and as a program, and answer as they do on PyTorch."""

import copy
from pathlib import Path

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.deployment.graph import WholeClassifier, to_onnx, to_program
from headstart.inference.onnx_artifact import open_session
from headstart.inference.onnx_graph import INPUT, STANDARD
from headstart.inference.program_session import ProgramSession
from headstart.inference.torch_artifact import TorchArtifact
from made_run import PREPROCESS, random_bundle

NAMES = ClassNames(("cat", "dog", "bird"))
QUICK = ("test_vit",)
MORE = (
    "test_convnext",
    "test_resnet",
    "deit_tiny_distilled_patch16_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "regnety_002",
    "regnetx_002",
    "resnet18",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "resnetv2_50",
    "test_byobnet",
    "test_coatnet",
    "test_efficientnet_evos",
    "test_maxvit",
    "test_mambaout",
    "test_nfnet",
    "test_vit_relpos",
    "resnet50v1_keras",
)
LARGER = {"test_coatnet": 160, "test_maxvit": 160, "test_vit_relpos": 160, "swin_tiny_patch4_window7_224": 224}
"""Networks that do not take 64 pixels, with a side that they take."""


def squares(sides, n=2):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for side in sides]


def agree(session, bundle):
    outputs = ("probabilities", "logits")
    torch_artifact = TorchArtifact(copy.deepcopy(bundle), device="cpu", threads=1)
    for batch in squares((bundle.preprocess.side, 20, 1)):
        found = dict(zip(outputs, session.run(list(outputs), {INPUT: batch}), strict=True))
        expected = torch_artifact.outputs(batch).logits
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4 * max(1, np.abs(expected).max()))
        np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("architecture", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_every_family_is_exported(architecture):
    size = LARGER.get(architecture, 64)
    bundle = random_bundle(NAMES, architecture, flip=False, preprocess=PREPROCESS.resized(size))
    classifier = WholeClassifier(bundle)
    graph = to_onnx(classifier)
    assert {node.domain for node in graph.graph.node} <= STANDARD
    agree(open_session(graph.SerializeToString(), Path("model.onnx"), threads=1), bundle)
    program = to_program(classifier)
    agree(ProgramSession(program, Path("model.pt2"), outputs=classifier.output_names, threads=1), bundle)
