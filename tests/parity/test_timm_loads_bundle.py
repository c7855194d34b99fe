"""What headstart saves, plain timm loads with the same logits, or refuses outright."""

import pytest
import timm
import torch

from headstart.bundle.config import Bundle
from headstart.bundle.folder import load_bundle, save_bundle
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.models.backbones import load_backbone
from headstart.models.heads import build_classifier, empty_classifier

NAMES = ClassNames(("airplane", "bird", "cat"))
PREPROCESS = Preprocess(96, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", 0.9)


def save(module, architecture, folder, hidden=()):
    bundle = Bundle(
        module=module.eval(),
        class_names=NAMES,
        preprocess=PREPROCESS,
        architecture=architecture,
        backbone=architecture,
        hidden=hidden,
        dropout=0.0,
        dataset="cifar10",
        manifest_sha256="",
    )
    save_bundle(bundle, folder)
    return bundle


def logits(module, images):
    with torch.inference_mode():
        return module.eval()(images)


@pytest.fixture
def images():
    return torch.randn(4, 3, PREPROCESS.size, PREPROCESS.size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
def test_a_linear_head_gives_the_same_logits(architecture, tmp_path, images):
    module = empty_classifier(architecture, num_classes=3)
    save(module, architecture, tmp_path / "model")
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert torch.equal(logits(plain, images), logits(module, images))


def test_real_weights_names_and_preprocessing_reach_timm(tmp_path, images):
    backbone = load_backbone("tf_efficientnet_lite0.in1k")
    module = build_classifier(backbone, num_classes=3, seed=0)
    save(module, backbone.architecture, tmp_path / "model")
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert torch.equal(logits(plain, images), logits(module, images))
    assert torch.equal(logits(load_bundle(tmp_path / "model").module, images), logits(module, images))
    assert tuple(plain.pretrained_cfg["label_names"]) == NAMES.names
    config = timm.data.resolve_model_data_config(plain)
    assert tuple(config["input_size"]) == (3, PREPROCESS.size, PREPROCESS.size)
    assert (tuple(config["mean"]), tuple(config["std"])) == (PREPROCESS.mean, PREPROCESS.std)
    assert (config["interpolation"], config["crop_pct"]) == (PREPROCESS.interpolation, PREPROCESS.crop_pct)


def test_timm_can_put_another_head_on_it(tmp_path, images):
    save(empty_classifier("test_resnet", num_classes=3), "test_resnet", tmp_path / "model")
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=7)
    assert logits(plain, images).shape == (4, 7)


def test_an_mlp_head_is_refused_by_timm(tmp_path):
    module = empty_classifier("test_resnet", num_classes=3, hidden=(8,))
    save(module, "test_resnet", tmp_path / "model", hidden=(8,))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)


def test_our_own_architecture_is_refused_by_plain_timm_and_loaded_by_headstart(tmp_path, images, monkeypatch):
    module = empty_classifier("resnet50v1_keras", num_classes=3)
    save(module, "resnet50v1_keras", tmp_path / "model")
    assert torch.equal(logits(load_bundle(tmp_path / "model").module, images), logits(module, images))
    # headstart has made the name known to timm.
    monkeypatch.delitem(timm.models._registry._model_entrypoints, "resnet50v1_keras")
    with pytest.raises(RuntimeError, match=r"Unknown model \(resnet50v1_keras\)"):
        timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
