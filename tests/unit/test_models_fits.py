"""Networks of all of timm's families either train at the sizes asked for or are refused with those that fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import headstart
from headstart.errors import WeightsError
from headstart.models import fits
from headstart.models.backbones import load_backbone
from headstart.models.fits import check_before_download, require_fit
from headstart.models.fold import fold_batch_norm, unfolded_state_dict
from headstart.models.freeze import count_stages, freeze, parameter_groups, set_training_mode
from headstart.models.heads import build_classifier, empty_classifier, feature_head, pooled_features
from headstart.models.split import split_frozen

FAMILIES = json.loads((Path(__file__).parents[1] / "data" / "timm_families.json").read_text())
"""At least one network of each of timm's families, mostly the smallest, by what becomes of it at 64 px."""
SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES["slower_at_64"]]


def classifier(name):
    backbone = load_backbone(name, weights="none", progress=False)
    return build_classifier(backbone, num_classes=3, seed=0).eval(), backbone


def steps_of_a_run(name, size, images):
    """Do to a network what a run does: fold, freeze, split, train, save, load."""
    module, backbone = classifier(name)
    require_fit(module, name, [size], usual=size)
    folds = fold_batch_norm(module, size=size)
    with torch.no_grad():
        torch.testing.assert_close(
            feature_head(module)(pooled_features(module, images)), module(images), rtol=1e-4, atol=1e-4
        )
    freeze(module, stages=count_stages(module, 0.5))
    split_frozen(module, stages=1, size=size)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    set_training_mode(module, freeze_batch_norm=True)
    groups = parameter_groups(module, lr=0.01, weight_decay=0.0, layer_decay=0.9)
    loss = torch.nn.functional.cross_entropy(module(images), torch.tensor([0, 1]))
    loss.backward()
    # With random weights some networks have logits of 1e15.
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    torch.optim.SGD(groups).step()
    after = module.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in after if after[key].is_floating_point())
    saved = empty_classifier(backbone.architecture, num_classes=3)
    saved.load_state_dict(unfolded_state_dict(module.eval(), folds))
    with torch.no_grad():
        torch.testing.assert_close(saved.eval()(images), module(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*FAMILIES["quick_at_64"], *SLOWER])
def test_networks_of_every_family_train(name):
    steps_of_a_run(name, 64, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FAMILIES["only_larger"].items())
def test_networks_that_need_larger_images_are_refused_with_the_sizes_that_fit(name, size):
    module, backbone = classifier(name)
    with pytest.raises(WeightsError, match=rf"{name} does not take images of 64 .*fit: .*\b{size}\b"):
        require_fit(module, name, [64], usual=backbone.preprocess.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES["unusable"])
def test_networks_without_a_classifier_that_can_be_replaced_are_refused(name):
    def check():
        module, backbone = classifier(name)
        require_fit(module, name, [64, 224], usual=backbone.preprocess.size)

    with pytest.raises(WeightsError, match="Choose another backbone"):
        check()


def test_the_families_are_many():
    names = [name for group in FAMILIES.values() for name in group]
    assert len(FAMILIES["quick_at_64"]) >= 20
    assert len({timm.models.model_entrypoint(name).__module__ for name in names}) >= 75


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnetv2_18", "vit_small_patch14_dinov2"])
def test_a_network_that_takes_any_size_passes(name):
    module, _ = classifier(name)
    require_fit(module, name, [32, 95, 96], usual=224)


def test_a_size_that_does_not_fit_is_named_with_those_that_do():
    module, _ = classifier("visformer_tiny")
    with pytest.raises(WeightsError, match=r"does not take images of 96 pixels .* Sizes that fit: .*224") as caught:
        require_fit(module, "visformer_tiny", [96, 224], usual=224)
    assert "probe.size" in str(caught.value)


def test_the_search_for_sizes_that_fit_ends(monkeypatch):
    monkeypatch.setattr(fits, "_SECONDS", 0.0)
    module, _ = classifier("gcvit_xxtiny")
    with pytest.raises(WeightsError, match="Sizes that fit: 224"):
        require_fit(module, "gcvit_xxtiny", [224, 96], usual=224)


class Odd(nn.Module):
    """A network that is no classifier with a single linear head, in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.num_classes, self.fc = way, 2, nn.Linear(3, 2)

    def forward_features(self, images):
        if self.way == "fails":
            raise RuntimeError("this\nand that")
        return images.mean((2, 3))

    def forward_head(self, features, pre_logits=False):
        wrong = {"map": features[:, :, None, None].expand(-1, -1, 2, 2), "none": None, "one": features.mean(0)}
        features = wrong.get(self.way, features)
        return features if pre_logits else self.fc(features)

    def get_classifier(self):
        return self.fc

    def forward(self, images):
        logits = self.fc(self.forward_features(images))
        return {"more": logits + 0.1, "pair": (logits, logits), "shape": logits[:, :1]}.get(self.way, logits)


def test_two_classifiers_of_two_tokens_take_a_linear_head_only(monkeypatch):
    monkeypatch.setattr(fits, "_SECONDS", 0.2)
    backbone = load_backbone("deit_tiny_distilled_patch16_224", weights="none", progress=False)
    require_fit(build_classifier(backbone, num_classes=3, seed=0).eval(), "deit", [64], usual=224)
    module = build_classifier(backbone, num_classes=3, hidden=(64,), seed=0).eval()
    with pytest.raises(WeightsError, match="can't be used here"):
        require_fit(module, "deit", [64], usual=64)


@pytest.mark.parametrize("way", ["fails", "map", "none", "one", "more", "pair", "shape"])
def test_a_network_that_is_no_plain_classifier_is_refused(way):
    require_fit(Odd("plain"), "odd", [32], usual=32)
    with pytest.raises(WeightsError, match=r"odd can't be used here.*Choose another backbone"):
        require_fit(Odd(way), "odd", [32, 64], usual=32)


def test_what_will_not_fit_is_not_downloaded(no_hub):
    with pytest.raises(WeightsError, match=r"resmlp_12_224\.fb_in1k does not take images of 96 pixels.*fit: 224"):
        check_before_download("resmlp_12_224", [96])
    with pytest.raises(WeightsError, match="NormLinear that can't be replaced"):
        check_before_download("levit_128s", [224])
    check_before_download("resnet18", [96])
    # Its weights are here, so that loading is soon enough to find out.
    check_before_download("tf_efficientnet_lite0", [96])


SMALL = {
    "probe.size": 32,
    "finetune.schedule": [{"epochs": 1, "size": 32}],
    "finetune.batch_size": 16,
    "finetune.freeze.stages": 0,
    "evaluation.size": 32,
    "hardware.precision": "fp32",
    "hardware.memory_format": "contiguous",
}


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_run_of_a_network_with_a_convolutional_classifier(own_home, sample_dir, tmp_path, solver):
    found = headstart.train(
        sample_dir,
        "quickstart",
        overrides=SMALL | {"probe.solver": solver, "probe.epochs": 1},
        out=tmp_path / "run",
        limit=100,
        backbone="dla46_c",
        weights="none",
        threads=torch.get_num_threads(),
        progress=False,
    )
    assert 0 <= found.to_dict()["test"]["accuracy"] <= 1
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert len(headstart.load(tmp_path / "run" / "model").predict(images)) == 2


@pytest.mark.parametrize("backbone", ["resmlp_12_224", "crossvit_9_240"])
def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(own_home, sample_dir, tmp_path, backbone):
    with pytest.raises(WeightsError, match=backbone):
        headstart.train(
            sample_dir,
            "quickstart",
            overrides=SMALL,
            out=tmp_path / "run",
            limit=100,
            backbone=backbone,
            weights="none",
        )
    assert not (tmp_path / "run").exists()
