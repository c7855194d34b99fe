"""The Hugging Face Hub, played by a local HTTP server; and a Hub that is out of reach."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from headstart.errors import WeightsError
from headstart.models.backbones import list_backbones, load_backbone

NAME = "test_resnet.r160_in1k"
COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def published():
    torch.manual_seed(5)
    return timm.create_model("test_resnet").state_dict()


@pytest.fixture
def hub(monkeypatch, tmp_path, published):
    """Serve one file of one repository as the Hub does, and point the Hub's client at it."""
    content = save(published)
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            asked.append(f"{self.command} {self.path}")
            known = self.path == f"/timm/{NAME}/resolve/main/model.safetensors"
            self.send_response(200 if known else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) if known else 0))
            if not known:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if known and with_body:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{")[2]
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{{template}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    # Port 9 discards; nothing listens there.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path))


def test_weights_are_fetched_once_and_recorded(hub, published):
    backbone = load_backbone("test_resnet", progress=False)
    own = backbone.module.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own)
    assert backbone.name == NAME
    assert (backbone.weights.source, backbone.weights.license) == ("hub", "apache-2.0")
    assert backbone.weights.origin == f"Hugging Face Hub timm/{NAME} at revision {COMMIT}"
    assert backbone.preprocess.size == 160
    fetches = len(hub)
    assert any(line.startswith("GET") for line in hub)
    again = load_backbone("test_resnet", progress=False)
    assert again.weights == backbone.weights
    assert len(hub) == fetches, "the second load asked the Hub again"


def test_a_cached_model_works_without_the_hub_and_is_listed_as_available(hub, monkeypatch):
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


def test_a_hub_out_of_reach_is_an_error_within_seconds(unreachable):
    begin = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet50.tv_in1k")
    assert time.monotonic() - begin < 8
    assert "127.0.0.1 can't be reached for timm/resnet50.tv_in1k" in str(caught.value)
    assert "Backbones that work offline here: tf_efficientnet_lite0.in1k" in str(caught.value)


def test_offline_by_wish_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids a download"):
        load_backbone(NAME)
    assert hub == []
