"""Heads on networks of four families, with tiny random weights."""

from itertools import product

import pytest
import timm
import torch
from torch import nn

from headstart.errors import WeightsError
from headstart.models.backbones import load_backbone
from headstart.models.heads import (
    build_classifier,
    empty_classifier,
    feature_head,
    head_of,
    last_feature_map,
    pooled_features,
)

FAMILIES = ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"]
HEADS = [(), (12,), (16, 8)]


def classifier(architecture, hidden=(), dropout=0.0, seed=0):
    backbone = load_backbone(architecture, weights="none")
    return build_classifier(backbone, num_classes=5, hidden=hidden, dropout=dropout, seed=seed).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", [*FAMILIES, "resnetv2_18", "mobilenetv3_small_050"])
@pytest.mark.parametrize("hidden", HEADS)
def test_features_through_the_head_are_the_network(architecture, hidden, images):
    module = classifier(architecture, hidden)
    with torch.inference_mode():
        logits, features = module(images), pooled_features(module, images)
        assert logits.shape == (3, 5)
        assert features.ndim == 2
        torch.testing.assert_close(feature_head(module)(features), logits)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_linear_head_has_timms_own_tensor_names(architecture):
    own = timm.create_model(architecture, num_classes=5).state_dict()
    built = classifier(architecture).state_dict()
    assert {name: t.shape for name, t in built.items()} == {name: t.shape for name, t in own.items()}


@pytest.mark.parametrize(("architecture", "hidden"), [*product(FAMILIES, [(), (16, 8)]), ("resnet50v1_keras", (16, 8))])
def test_an_empty_classifier_takes_the_weights_of_a_built_one(architecture, hidden, images):
    built = classifier(architecture, hidden, dropout=0.3)
    empty = empty_classifier(architecture, num_classes=5, hidden=hidden, dropout=0.3).eval()
    empty.load_state_dict(built.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(empty(images), built(images))


def test_an_mlp_head_has_the_layers_asked_for():
    head = head_of(classifier("test_resnet", hidden=(512, 256), dropout=0.4))
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear, nn.ReLU] * 2 + [nn.Dropout, nn.Linear]
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [512, 256, 5]
    assert {layer.p for layer in head if isinstance(layer, nn.Dropout)} == {0.4}


@pytest.mark.parametrize("hidden", HEADS)
def test_new_weights_follow_the_seed_alone(hidden):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = head_of(classifier("test_resnet", hidden, seed=3)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(12)
    again = head_of(classifier("test_resnet", hidden, seed=3)).state_dict()
    other = head_of(classifier("test_resnet", hidden, seed=4)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("hidden", [(), (16,)])
def test_dropout_acts_while_training_and_only_then(architecture, hidden, images):
    with torch.no_grad():
        kept = classifier(architecture, hidden, dropout=0.0)
        dropped = classifier(architecture, hidden, dropout=0.9)
        assert torch.equal(dropped(images), kept(images))
        for module in (kept, dropped):
            module.train()
            freeze_norms(module)
        assert torch.equal(kept(images), kept(images))
        assert not torch.equal(dropped(images), dropped(images))


@pytest.mark.parametrize("hidden", HEADS)
def test_training_the_head_on_features_trains_a_convolutional_classifier(hidden, images):
    module = classifier("dla46_c", hidden)
    assert hidden or isinstance(head_of(module), nn.Conv2d)
    with torch.no_grad():
        features = pooled_features(module, images)
        before = module(images)
    head = feature_head(module)
    kept = head.state_dict()
    torch.nn.functional.cross_entropy(head(features), torch.tensor([0, 1, 2])).backward()
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    with torch.no_grad():
        assert not torch.allclose(module(images), before)
        torch.testing.assert_close(module(images), head(features))
    head.load_state_dict({name: torch.zeros_like(value) for name, value in kept.items()})
    assert not module(images).any()


def test_a_vision_transformer_takes_other_sizes_than_that_of_pretraining():
    module = classifier("test_vit")
    assert module(torch.zeros(1, 3, 64, 64)).shape == module(torch.zeros(1, 3, 160, 160)).shape


@pytest.mark.parametrize("architecture", ["resnet50v2_keras", "resnet50.tv_in1k"])
def test_an_unknown_architecture_is_refused(architecture):
    with pytest.raises(WeightsError, match=f"Unknown architecture '{architecture}'.*Did you mean"):
        empty_classifier(architecture, num_classes=5)


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_a_network_with_a_second_classifier_for_distillation_has_one_in_both_places(hidden, images):
    module = classifier("swiftformer_xs", hidden)
    assert module.head is module.head_dist
    assert head_of(module) is module.head
    empty = empty_classifier("swiftformer_xs", num_classes=5, hidden=hidden).eval()
    copies = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert any(name.startswith("head_dist.") for name in copies)
    empty.load_state_dict(copies)
    with torch.inference_mode():
        torch.testing.assert_close(feature_head(module)(pooled_features(module, images)), module(images))
        assert torch.equal(empty(images), module(images))


@pytest.mark.parametrize("architecture", ["crossvit_9_240", "repvit_m0_9", "levit_128s"])
def test_a_network_whose_classifier_is_no_plain_layer_is_refused(architecture):
    with pytest.raises(WeightsError, match=r"can't be replaced.*Choose another backbone"):
        empty_classifier(architecture, num_classes=5)


def freeze_norms(module):
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext", "mobilenetv3_small_050"])
def test_the_last_map_of_features_is_what_is_pooled(architecture, images):
    module = classifier(architecture)
    path, layer = last_feature_map(module, size=96)
    assert module.get_submodule(path) is layer
    seen = []
    with layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output)), torch.inference_mode():
        pooled = pooled_features(module, images)
        assert seen[0].ndim == 4
        torch.testing.assert_close(module.forward_head(seen[0], pre_logits=True), pooled)
    assert not any(inner._forward_hooks for inner in module.modules()), "nothing stays behind"


def test_a_network_without_a_map_of_features_says_so():
    with pytest.raises(WeightsError, match="convolutional"):
        last_feature_map(classifier("test_vit"), size=96)
