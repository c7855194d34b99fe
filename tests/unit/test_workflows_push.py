"""A classifier on the Hub that a test plays: what is sent there, what comes back, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import validate_repo_id

import headstart
from headstart.cli import main
from headstart.errors import BundleError, HeadstartError, InputError, RunError
from headstart.files import file_sha256
from headstart.server.models import Models, places
from headstart.workflows.export import _source

COMMIT = "c0ffee" + "0" * 34
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


@pytest.fixture
def published(measured, exported, allowed):
    """The run of a test as it is on the Hub after a push, with its export beside the bundle."""
    assert push(measured.path, "me/pets", "--export", exported) == 0
    allowed.publish("me/pets", **allowed.commits[0][1])
    return allowed


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
    assert np.array_equal(headstart.load(f"hf://me/pets@{COMMIT}").predict(IMAGES).probabilities, own)


def test_a_classifier_of_the_hub_is_fetched_once_and_predicts_from_the_command_line(
    run, allowed, photos, monkeypatch, capsys
):
    push(run, "me/pets")
    assert f"headstart push {run} me/pets --export DIR" in capsys.readouterr().out
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


def test_an_export_lies_beside_the_bundle_and_nothing_of_ones_own_with_it(measured, exported, allowed, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    (copy / "golden" / "holiday.png").write_bytes(b"mine too")
    allowed.publish("me/pets", **{"export/model.old": b"of an earlier push"})
    sent = headstart.push(measured.path, "me/pets", export=copy).files
    ours = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    bundle = {"README.md", "config.json", "model.safetensors", "novelty.safetensors"}
    assert set(sent) == bundle | {f"export/{name}" for name in ours}
    ((_, content),) = allowed.commits
    assert content["export/model.old"] is None
    assert b"hf://me/pets/export" in content["README.md"]


def test_each_command_takes_the_export_by_its_address(published, measured, exported, sample_dir, tmp_path, capsys):
    address = "hf://me/pets/export"
    image = str(sorted((exported / "golden").glob("*.png"))[0])
    expected = headstart.load(exported).predict(image).probabilities
    for name in (address, f"{address}@{COMMIT}"):
        assert np.array_equal(headstart.load(name).predict(image).probabilities, expected)
    assert not any("model.safetensors" in line or ".py" in line for line in published.asked if "GET" in line)
    capsys.readouterr()
    assert main(["compare", str(measured.path), address, "--gate", "not worse than 4 points at 95 %", "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["tiny", address]
    assert main(["evaluate", address, "--on", str(sample_dir), "--out", str(tmp_path / "x"), "-q"]) == 2
    assert "the run has seen all" in capsys.readouterr().err
    (served,) = Models(places([address]), device=None, threads=1)
    assert (served.name, served.sha256) == ("pets", file_sha256(exported / "model.onnx"))
    assert main(["export", address, "--out", str(tmp_path / "again"), "-q"]) == 2
    assert f"{address} is an export already" in capsys.readouterr().err


def test_a_bundle_is_served_and_exported_by_its_address_without_what_lies_beside_it(published, measured):
    folder, no_run = _source("hf://me/pets")
    assert (file_sha256(folder / "config.json"), no_run) == (file_sha256(measured.model / "config.json"), None)
    (served,) = Models(places(["pets=hf://me/pets"]), device=None, threads=1)
    assert (served.name, served.sha256) == ("pets", file_sha256(measured.model / "model.safetensors"))
    assert not any("export/" in line for line in published.asked if "GET" in line and "resolve" in line)
    with pytest.raises(RunError, match="no predictions to compare"):
        headstart.compare(["hf://me/pets", measured.path])


def test_an_export_of_another_classifier_is_not_pushed(run, exported, allowed, capsys):
    assert push(run, "me/pets", "--export", exported) == 2
    assert "was not made from" in capsys.readouterr().err
    assert push(run, "me/pets", "--export", run) == 2
    assert "holds no export" in capsys.readouterr().err
    assert push(exported, "me/pets") == 2
    assert f"--export {exported}" in capsys.readouterr().err
    assert allowed.commits == []


def test_an_export_that_is_not_as_it_was_certified_is_not_pushed(measured, exported, allowed, tmp_path, capsys):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "measured" / "metrics.json").write_text("{}")
    assert push(measured.path, "me/pets", "--export", copy) == 2
    assert "metrics.json is not the file that certificate.json names" in capsys.readouterr().err
    (copy / "certificate.json").unlink()
    assert push(measured.path, "me/pets", "--export", copy) == 2
    assert "certificate.json can't be read" in capsys.readouterr().err
    assert allowed.commits == []


@pytest.mark.parametrize("name", ["pets", "me/pets/more", "me/..", "me/pe ts", " "])
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
    with pytest.raises(InputError, match=r"127\.0\.0\.1 can't be reached for me/pets.*push again"):
        headstart.push(run, "me/pets")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("hf://pets", "Write hf://owner/name"),
        ("hf://me/none", "hf://me/none can't be had"),
        ("hf://me/pets/../x", "Write hf://owner/name"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(address, told, hub, capsys):
    with pytest.raises(BundleError, match=told):
        headstart.load(address)
    assert main(["predict", address, "x.png"]) == 2
    assert told in capsys.readouterr().err
