"""Maps point where the evidence is, for the class that was asked, and a missing captum is named with its remedy."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.contracts import ClassNames
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import InputError
from headstart.evaluation import saliency
from headstart.evaluation.saliency import class_activation_maps, write_saliency
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier
from headstart.runs.run import Run

NAMES = ClassNames(("red", "blue"))


class Colours(nn.Module):
    """Says red or blue by how much of each there is; its features are the colours themselves, on a grid of 4 x 4."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.features = nn.AvgPool2d(8)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def forward_features(self, images):
        return self.features(images)

    def forward(self, images):
        return self.head(self.forward_features(images).mean((2, 3)))


def made_bundle(module, flip=False):
    preprocess = Preprocess(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
    return Bundle(
        module=module.eval(),
        class_names=NAMES,
        preprocess=preprocess,
        architecture="test_efficientnet",
        backbone="test_efficientnet.r160_in1k",
        hidden=(),
        dropout=0.0,
        dataset="colours",
        manifest_sha256="0" * 64,
        flip=flip,
    )


def half_and_half():
    """Red in the upper left quarter, blue in the lower right one."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:16, :16, 0] = 255
    image[16:, 16:, 2] = 255
    return image


@pytest.mark.parametrize("flip", [False, True])
def test_a_map_shows_where_its_class_is(flip):
    images = np.stack([half_and_half()] * 2)
    maps = class_activation_maps(made_bundle(Colours(), flip), images, np.array([0, 1]))
    red = np.zeros((4, 4))
    red[:2, :2] = 1
    np.testing.assert_allclose(maps, [red, red[::-1, ::-1]], atol=1e-6)


def test_nothing_speaks_for_a_colour_that_is_not_there():
    green = np.zeros((1, 32, 32, 3), np.uint8)
    green[..., 1] = 255
    assert not class_activation_maps(made_bundle(Colours()), green, np.array([1])).any()


def test_a_real_network_is_explained_and_the_file_says_how(tmp_path):
    backbone = load_backbone("test_efficientnet", weights="none", progress=False)
    bundle = made_bundle(build_classifier(backbone, num_classes=2, seed=0))
    save_bundle(bundle, tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    split = Subset.whole(ArraySource(images, np.arange(12) % 2, NAMES), "test")
    dataset = Dataset("colours", split, SealedTest(split), NAMES, "ab" * 32, "a test")
    wanted = {7: ("red", "blue"), 3: ("blue", "blue"), **dict.fromkeys((0, 1, 2), ("red", "blue"))}
    content = write_saliency(Run(tmp_path), dataset, wanted=wanted)
    assert json.loads((tmp_path / "saliency.json").read_text()) == content
    assert {image.row for image in Run(tmp_path).saliency().images} == set(wanted)
    assert content["library"].startswith("captum ")
    assert content["layer"] == "bn2"
    first, second, *_ = content["images"]
    assert (first["row"], set(first["maps"]), set(second["maps"])) == (7, {"red", "blue"}, {"blue"})
    assert (first["size"], first["box"]) == ([32, 48], [0, 8, 32, 32]), "the network sees the central square"
    grids = np.array([grid for image in content["images"] for grid in image["maps"].values()])
    assert grids.shape[0] == 9
    assert grids.min() >= 0
    assert set(grids.max(axis=(1, 2))) <= {0.0, 1.0}
    alone = class_activation_maps(bundle, images[7:8], np.array([0]))
    np.testing.assert_allclose(alone[0], first["maps"]["red"], atol=1e-3)


def test_images_of_different_sizes_are_explained(tmp_path):
    class Sizes(ArraySource):
        def image(self, row, **_):
            return self.array[row, : 16 + 8 * (row % 3)]

    save_bundle(
        made_bundle(
            build_classifier(load_backbone("test_efficientnet", weights="none", progress=False), num_classes=2, seed=0)
        ),
        tmp_path / "model",
    )
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    split = Subset.whole(Sizes(images, np.arange(6) % 2, NAMES), "test")
    dataset = Dataset("colours", split, SealedTest(split), NAMES, "ab" * 32, "a test")
    content = write_saliency(Run(tmp_path), dataset, wanted=dict.fromkeys((4, 0, 5, 1), ("red", "blue")))
    assert [image["row"] for image in content["images"]] == [4, 0, 5, 1]
    assert [image["size"] for image in content["images"]] == [[24, 32], [16, 32], [32, 32], [24, 32]]


def test_without_captum_the_install_command_is_told(monkeypatch):
    monkeypatch.setattr(saliency, "find_spec", lambda name: None if name == "captum" else find_spec(name))
    with pytest.raises(InputError, match="pip install captum"):
        class_activation_maps(made_bundle(Colours()), half_and_half()[None], np.array([0]))
