"""The Hugging Face Hub, played by a local HTTP server; and a Hub that is out of reach."""

import time

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from headstart.errors import WeightsError
from headstart.models.backbones import load_backbone
from headstart.models.catalogue import list_backbones

NAME = "test_resnet.r160_in1k"
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def published(hub):
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    hub.files[f"/timm/{NAME}/resolve/main/model.safetensors"] = save(state)
    return state


def test_weights_are_fetched_once_and_recorded(hub, published):
    backbone = load_backbone("test_resnet", progress=False)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own)
    assert backbone.name == NAME
    assert (backbone.weights.source, backbone.weights.license) == ("hub", "apache-2.0")
    assert backbone.weights.origin == f"Hugging Face Hub timm/{NAME} at revision {COMMIT}"
    assert backbone.preprocess.size == 160
    fetches = len(hub.asked)
    assert any(line.startswith("GET") for line in hub.asked)
    again = load_backbone("test_resnet", progress=False)
    assert again.weights == backbone.weights
    assert len(hub.asked) == fetches, "the second load asked the Hub again"


def test_a_cached_model_works_without_the_hub_and_is_listed_as_available(hub, published, monkeypatch):
    load_backbone(NAME, progress=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_backbone(NAME, progress=False).weights.source == "hub"
    assert [info.name for info in list_backbones() if info.source == "hub" and info.available] == [NAME]


def test_the_classifier_of_pretraining_can_be_kept(hub, published):
    module = load_backbone(NAME, progress=False, keep_classifier=True).module
    assert torch.equal(module.get_classifier().weight, published["fc.weight"])


def test_a_repository_without_the_file_is_an_error(hub):
    with pytest.raises(WeightsError, match=r"does not give model.safetensors of timm/test_vit.r160_in1k"):
        load_backbone("test_vit.r160_in1k", progress=False)


def test_a_hub_out_of_reach_is_an_error_within_seconds(no_hub):
    begin = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet50.tv_in1k")
    assert time.monotonic() - begin < 8
    assert "127.0.0.1 can't be reached for timm/resnet50.tv_in1k" in str(caught.value)
    assert "Backbones that work offline here: tf_efficientnet_lite0.in1k" in str(caught.value)


def test_offline_by_wish_asks_nobody(hub, published, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids a download"):
        load_backbone(NAME)
    assert hub.asked == []


def test_a_file_larger_than_the_network_can_need_is_refused(hub, published):
    hub.announced = 10**9
    with pytest.raises(WeightsError, match="1,000 MB, where at most 10 MB make sense"):
        load_backbone(NAME, progress=False)
    assert not any(line.startswith("GET") and "resolve" in line for line in hub.asked)
