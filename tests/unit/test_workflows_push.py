"""A classifier on the Hub that a test plays: what is sent there, what comes back, and what is refused."""

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import validate_repo_id

import headstart
from headstart.cli import main
from headstart.errors import BundleError, HeadstartError, InputError

IMAGES = np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def run(small_classifier, tmp_path):
    """A folder like that of a run: a bundle in ``model``, beside files that are nobody else's business."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions.csv").write_text("row,file\n")
    return small_classifier.rename(tmp_path / "run" / "model").parent


@pytest.fixture
def allowed(hub, monkeypatch):
    """The Hub with an empty repository ``me/pets``, and a token that may write to it."""
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.publish("me/pets")
    return hub


def push(*words):
    return main(["push", *map(str, words)])


def test_what_is_pushed_answers_like_the_run_it_came_from(run, allowed, capsys):
    assert push(run, "me/pets", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["url"] == f"{allowed.url}/me/pets"
    ((title, sent),) = allowed.commits
    assert title == "Add test_efficientnet, trained with headstart"
    assert sorted(sent) == said["files"] == ["README.md", "config.json", "model.safetensors"]
    allowed.publish("me/pets", **sent)
    own = headstart.load(run).predict(IMAGES).probabilities
    assert np.array_equal(headstart.load("hf://me/pets").predict(IMAGES).probabilities, own)
    commit = "c0ffee" + "0" * 34
    assert np.array_equal(headstart.load(f"hf://me/pets@{commit}").predict(IMAGES).probabilities, own)


def test_a_classifier_of_the_hub_is_fetched_once_and_predicts_from_the_command_line(run, allowed, photos, monkeypatch):
    push(run, "me/pets")
    allowed.publish("me/pets", **allowed.commits[0][1], **{"train.py": b"raise SystemExit"})
    assert main(["predict", "hf://me/pets", str(photos / "glass")]) == 0
    assert not any("train.py" in line for line in allowed.asked)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["predict", "hf://me/pets", str(photos / "glass")]) == 0


def test_the_card_is_one_the_hub_understands(run, allowed):
    headstart.push(run, "me/pets", message="First")
    ((title, sent),) = allowed.commits
    assert title == "First"
    text = sent["README.md"].decode()
    card = ModelCard(text)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("pets", "accuracy", 0.9)
    assert card.data.base_model == "timm/test_efficientnet.r160_in1k"
    validate_repo_id(card.data.base_model)
    assert 'headstart.load("hf://me/pets")' in text
    assert "hf-hub:me/pets" in text
    assert "path/to/this/folder" not in text


def test_what_an_earlier_classifier_left_there_is_removed(run, allowed):
    allowed.publish("me/pets", **{"novelty.safetensors": b"old", "notes.md": b"theirs"})
    headstart.push(run, "me/pets")
    ((_, sent),) = allowed.commits
    assert sent["novelty.safetensors"] is None
    assert "notes.md" not in sent


@pytest.mark.parametrize("name", ["pets", "me/pets/more", "me/..", "me/pe ts", ""])
def test_what_is_no_repository_is_refused_before_anything_is_read(name, tmp_path, capsys):
    assert push(tmp_path / "nowhere", name) == 2
    assert "Write owner/name" in capsys.readouterr().err


def test_without_a_token_nothing_is_sent(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError, match="hf auth login"):
        headstart.push(run, "me/pets")
    assert not any(line.startswith("POST") for line in hub.asked)


def test_a_token_that_may_not_write_is_told(run, allowed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match="does not let this token write to me/pets"):
        headstart.push(run, "me/pets")
    assert allowed.commits == []


def test_a_hub_that_fails_is_told(run, allowed):
    allowed.fails = True
    with pytest.raises(HeadstartError, match="The Hub did not take me/pets") as told:
        headstart.push(run, "me/pets")
    assert told.value.exit_status == 1
    assert allowed.commits == []


def test_a_damaged_bundle_is_not_sent(run, allowed):
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="not written by headstart"):
        headstart.push(run, "me/pets")
    assert allowed.commits == []


def test_a_hub_out_of_reach_is_told(run, no_hub):
    with pytest.raises(InputError, match=r"127\.0\.0\.1 can't be reached for me/pets"):
        headstart.push(run, "me/pets")


@pytest.mark.parametrize(
    ("address", "told"), [("hf://pets", "Write hf://owner/name"), ("hf://me/none", "hf://me/none can't be had")]
)
def test_an_address_that_leads_nowhere_is_told(address, told, hub, capsys):
    with pytest.raises(BundleError, match=told):
        headstart.load(address)
    assert main(["predict", address, "x.png"]) == 2
    assert told in capsys.readouterr().err
