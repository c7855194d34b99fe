"""Bundles on disk: what is written comes back; what is damaged or unknown is refused by name."""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import stat
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from headstart.bundle.config import Bundle
from headstart.bundle.folder import load_bundle, save_bundle, update_bundle
from headstart.bundle.novelty import read_novelty
from headstart.compute.memory import peak_memory_mb
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.errors import BundleError, RunError
from headstart.models.heads import empty_classifier
from headstart.tasks.confidence import Confidence

PREPROCESS = Preprocess(64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", 0.9)
WEIGHTS = {"source": "package", "origin": "a package 1.0", "sha256": "ab" * 32, "license": "Apache-2.0"}


def make(hidden=(), architecture="test_efficientnet", **changes):
    module = empty_classifier(architecture, num_classes=3, hidden=hidden, dropout=0.1)
    values = {
        "class_names": ClassNames(("cat", "dog", "b|rd")),
        "preprocess": PREPROCESS,
        "backbone": f"{architecture}.r160_in1k",
        "dropout": 0.1,
        "dataset": "animals",
        "manifest_sha256": "cd" * 32,
        "temperature": 1.25,
        "flip": True,
        "weights": WEIGHTS,
        "confidence": Confidence(edges=[0.5, 0.75], counts=[10, 20, 70]),
    }
    return Bundle(module=module.eval(), architecture=architecture, hidden=hidden, **(values | changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A bundle's folder; tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_bundle(make(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder, path, value):
    """Set, or with ``...`` delete, a key of config.json given as ``a.b``."""
    config = json.loads((folder / "config.json").read_text())
    *parents, last = path.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("architecture", "hidden"),
    [
        ("test_efficientnet", ()),
        ("test_efficientnet", (12, 8)),
        ("test_vit", ()),
        ("test_vit", (12, 8)),
        ("resnet50v1_keras", (12, 8)),
    ],
)
def test_what_is_saved_comes_back(architecture, hidden, tmp_path):
    bundle = make(hidden, architecture)
    save_bundle(bundle, tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.module(images), bundle.module(images))
    assert not loaded.module.training
    assert dataclasses.replace(loaded, module=bundle.module) == bundle


@pytest.mark.parametrize(("fit", "mode"), [("crop", "center"), ("pad", "border"), ("stretch", "squash")])
def test_how_images_are_fitted_travels_and_crop_is_written_as_it_always_was(fit, mode, tmp_path):
    save_bundle(make(preprocess=dataclasses.replace(PREPROCESS, fit=fit)), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["crop_mode"] == mode
    assert config["headstart"].get("fit") == (None if fit == "crop" else fit)
    assert load_bundle(tmp_path / "model").preprocess.fit == fit


def test_only_the_three_files_are_left_and_are_as_readable_as_others(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    (saved.parent / "ordinary").touch()
    ordinary = (saved.parent / "ordinary").stat().st_mode
    (saved.parent / "ordinary").unlink()
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.iterdir()} == {stat.S_IMODE(ordinary)}


def test_an_older_bundle_is_replaced(folder):
    save_bundle(make(temperature=3.0), folder)
    assert load_bundle(folder).temperature == 3.0
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_with_other_contents_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(RunError, match="is not a saved classifier"):
        save_bundle(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_what_killed_processes_left_is_swept(folder):
    (folder / ".config.json-0123abcd").write_text("{")
    for name in (".model-0123abcd", ".model-89abcdef.old"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "model.safetensors").touch()
    kept = [folder.parent / name for name in (".model-mine", ".models-0123abcd", "other")]
    for path in kept:
        path.mkdir()
    update_bundle(folder, temperature=2.0, metrics={})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    save_bundle(make(temperature=3.0), folder)
    assert sorted(folder.parent.iterdir()) == sorted([folder, *kept])


def test_a_system_that_can_not_flush_folders_saves_all_the_same(tmp_path, monkeypatch):
    """As on Windows, which opens no folders."""
    opened = os.open

    def only_files(path, *arguments, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", only_files)
    save_bundle(make(), tmp_path / "model")
    assert load_bundle(tmp_path / "model").temperature == 1.25


@pytest.mark.parametrize("odd", ["cat\n", "\x1b[2J", "a\u2028b"])
def test_class_names_with_control_characters_are_refused(folder, odd):
    change_config(folder, "label_names", ["dog", "bird", odd])
    with pytest.raises(BundleError, match=r"label_names.*control characters") as error:
        load_bundle(folder)
    assert odd not in str(error.value)


def test_a_failure_while_writing_leaves_the_old_bundle_whole(folder, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.bundle.folder.save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        save_bundle(make(temperature=3.0), folder)
    assert load_bundle(folder).temperature == 1.25
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    bundle = make()
    with torch.no_grad():
        bundle.module.classifier.bias[1] = float("nan")
    with pytest.raises(BundleError, match=r"classifier\.bias"):
        save_bundle(bundle, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_metrics_that_json_can_not_hold_are_not_saved(tmp_path):
    with pytest.raises(BundleError, match=r"headstart\.metrics"):
        save_bundle(make(metrics={"test": {"accuracy": float("nan")}}), tmp_path / "model")


def test_temperature_and_scores_are_put_in_later_and_the_weights_stay(folder):
    before = (folder / "model.safetensors").stat()
    update_bundle(folder, temperature=2.5, metrics={"test": {"accuracy": 0.9125, "n": 400}})
    loaded = load_bundle(folder)
    assert (loaded.temperature, loaded.metrics) == (2.5, {"test": {"accuracy": 0.9125, "n": 400}})
    assert "| Accuracy | 91.25% |" in (folder / "README.md").read_text()
    after = (folder / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan"), True])
def test_an_impossible_temperature_is_refused(folder, temperature):
    with pytest.raises(BundleError, match=r"headstart\.temperature must be a number above 0"):
        update_bundle(folder, temperature=temperature, metrics={})
    assert load_bundle(folder).temperature == 1.25


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[]", '{"headstart": 3}', "\x00\xff", "[" * 100_000])
def test_a_broken_config_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"config\.json"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("headstart.format", 2, "format 2 is unknown; this version reads format 1"),
        ("headstart.format", ..., "format None is unknown"),
        ("headstart.temprature", 1.0, r"headstart\.temprature: unknown key.*Did you mean 'temperature'"),
        ("headstart.flip", ..., r"headstart\.flip is missing"),
        ("headstart.flip", 1, r"headstart\.flip must be true or false"),
        ("headstart.hidden", [0], r"headstart\.hidden must be a list of layer widths"),
        ("headstart.dropout", 1.0, r"headstart\.dropout"),
        ("headstart.weights", [], r"headstart\.weights"),
        ("architecture", "test_efficientne", "Unknown architecture 'test_efficientne'"),
        ("architecture", "hf-hub:someone/else", "must be a plain architecture name"),
        ("architecture", ..., "architecture is missing"),
        ("model_args", {"num_classes": 7}, r"model_args\.num_classes: unknown key"),
        ("model_args", {"dynamic_img_size": False, "img_size": [9, 9]}, r"model_args\.dynamic_img_size must be true"),
        ("headstart.temperature", float("inf"), r"headstart\.temperature must be a number above 0, but is inf"),
        ("headstart.metrics", {"accuracy": float("nan")}, r"headstart\.metrics must be a mapping of plain"),
        ("headstart.dropout", True, r"headstart\.dropout must be a number"),
        ("headstart.hidden", [2**40], r"headstart\.hidden must be a list of layer widths"),
        ("pretrained_cfg.input_size", [3, 10**6, 10**6], "input_size must be .* at most 4096"),
        ("surprise", 1, "surprise: unknown key"),
        ("label_names", ["cat", "dog"], "num_classes is 3, but label_names has 2 names"),
        ("label_names", ["cat", "dog", "dog"], "must be unique"),
        ("label_names", ["cat", "dog", "b\u2028d"], r"label_names.*b\\u2028d"),
        ("label_names", "cat", "label_names must be a list of names"),
        ("num_classes", 4, "num_classes is 4, but label_names has 3 names"),
        ("pretrained_cfg.num_classes", 4, r"pretrained_cfg\.num_classes is 4"),
        ("pretrained_cfg", [], "pretrained_cfg must be a mapping"),
        ("pretrained_cfg.crop_mode", "corner", "crop_mode must be center"),
        ("pretrained_cfg.crop_mode", "squash", r"headstart\.fit is 'crop'"),
        ("headstart.fit", "cover", "crop, pad or stretch"),
        ("headstart.fit", "pad", "crop_mode is 'center'"),
        ("pretrained_cfg.test_input_size", [3, 9, 9], r"pretrained_cfg\.test_input_size: unknown key"),
        ("pretrained_cfg.input_size", [3, 64, 32], "input_size must be"),
        ("pretrained_cfg.mean", [0.5, 0.5], "mean must be three numbers"),
        ("pretrained_cfg.std", [0.5, 0.5, 0], "std must be three numbers above 0"),
        ("pretrained_cfg.interpolation", "lanczos", "bilinear or bicubic"),
        ("pretrained_cfg.crop_pct", 1.5, "crop_pct must be"),
        ("headstart.confidence", {"edges": [0.9, 0.5], "counts": [1, 2, 3]}, "edges must be rising numbers"),
        ("headstart.confidence", {"edges": [0.9, 1.5], "counts": [1, 2, 3]}, "edges must be rising numbers"),
        ("headstart.confidence", {"edges": [0.9], "counts": [1, 2, 3]}, "confidence must be .*one more than edges"),
        ("headstart.confidence", {"edges": [], "counts": [0]}, "confidence must be"),
        ("headstart.confidence", {"edges": [0.9], "counts": [1, -2]}, "counts must be whole numbers"),
    ],
)
def test_what_the_config_should_not_say_is_named(folder, path, value, told):
    change_config(folder, path, value)
    with pytest.raises(BundleError, match=told) as error:
        load_bundle(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("classifier.bias"), r"missing: classifier\.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown: extra"),
        (lambda t: t.update({"classifier.bias": torch.zeros(4)}), r"classifier\.bias: float32 \(4,\) instead of"),
        (lambda t: t.update({"classifier.bias": torch.zeros(3).half()}), r"classifier\.bias: float16 \(3,\)"),
        (lambda t: t["classifier.bias"].fill_(float("inf")), r"not a finite number in classifier\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, told):
    change_tensors(folder, change)
    with pytest.raises(BundleError, match=told):
        load_bundle(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 5_000])
def test_weights_cut_short_are_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match="damaged or is not a safetensors file"):
        load_bundle(folder)


def test_a_key_that_is_there_twice_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"flip": true', '"flip": true, "flip": false'))
    with pytest.raises(BundleError, match="'flip' is there twice"):
        load_bundle(folder)


def test_several_wrong_keys_are_told_at_once_and_long_values_are_cut(folder):
    change_config(folder, "headstart.flip", "x" * 1_000_000)
    change_config(folder, "pretrained_cfg.crop_pct", 7)
    with pytest.raises(BundleError, match=r"crop_pct .* but is 7.*headstart\.flip .* but is 'xxx") as error:
        load_bundle(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # 40 TB of weights, were the network built before its file is looked at.
        ({"headstart.hidden": [2**20] * 9}, r"headstart.*unknown: classifier\.weight|missing: classifier\."),
        ({"headstart.hidden": [8] * 100_000}, "hidden has 100,000 layers"),
        ({"architecture": "vit_giant_patch14_clip_224"}, "missing: blocks"),
    ],
)
def test_a_network_far_larger_than_its_file_is_never_built(folder, changes, told):
    for path, value in changes.items():
        change_config(folder, path, value)
    before, start = peak_memory_mb(), time.process_time()
    with pytest.raises(BundleError, match=told):
        load_bundle(folder)
    assert peak_memory_mb() - before < 100
    assert time.process_time() - start < 20


def test_a_config_that_is_far_too_large_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("headstart.bundle.config.LARGEST_CONFIG", 500)
    with pytest.raises(BundleError, match="no classifier needs"):
        load_bundle(folder)


def test_constants_that_no_file_holds_are_computed(tmp_path):
    """This network blurs with a fixed kernel, which is not among its weights."""
    bundle = make(architecture="resnetblur18")
    assert {name for name, _ in bundle.module.named_buffers()} - bundle.module.state_dict().keys()
    save_bundle(bundle, tmp_path / "model")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_bundle(tmp_path / "model").module(images), bundle.module(images))


def test_a_novelty_score_that_does_not_fit_into_memory_is_named(folder, monkeypatch):
    monkeypatch.setattr("headstart.bundle.novelty_file.read_bounded", mock.Mock(side_effect=MemoryError))
    with pytest.raises(BundleError, match=r"novelty\.safetensors can't be read: it does not fit into memory"):
        read_novelty(folder, num_classes=3)


def test_weights_that_do_not_fit_into_memory_are_named(folder, monkeypatch):
    monkeypatch.setattr("headstart.bundle.folder.safe_open", mock.Mock(side_effect=MemoryError))
    with pytest.raises(BundleError, match=r"model\.safetensors can't be read: it does not fit into memory"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(folder, name, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / name))

    where = "headstart.bundle.folder.safe_open" if name == "model.safetensors" else "pathlib.Path.read_bytes"
    monkeypatch.setattr(where, refuse)
    with pytest.raises(BundleError, match=rf"{name} can't be read: Permission denied"):
        load_bundle(folder)


def test_the_path_of_a_users_own_weights_is_not_published(tmp_path):
    weights = WEIGHTS | {"source": "file", "origin": "/data/someone/secret project/weights.pth"}
    save_bundle(make(weights=weights), tmp_path / "model")
    text = "".join(path.read_text() for path in (tmp_path / "model").iterdir() if path.suffix != ".safetensors")
    assert "weights.pth" in text
    assert "someone" not in text
    assert load_bundle(tmp_path / "model").weights == weights | {"origin": "weights.pth"}


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_nothing_is_unpickled(folder):
    for name in ("pytorch_model.bin", "model.pth", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Malicious()))
    load_bundle(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(BundleError):
        load_bundle(folder)


def card(tmp_path, **changes):
    """The model card's front matter and text."""
    save_bundle(make(**changes), tmp_path / "model")
    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_model_card_says_what_hubs_and_people_ask(tmp_path):
    metrics = {
        "val": {"accuracy": 0.5, "n": 40},
        "test": {
            "accuracy": 0.9,
            "accuracy_ci95": [0.86, 0.93],
            "n": 300,
            "per_class": {"cat": {"precision": 0.8, "recall": 0.7, "f1-score": 0.75, "support": 100}},
        },
    }
    front, text = card(tmp_path, metrics=metrics)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "timm"
    assert front["pipeline_tag"] == "image-classification"
    assert front["datasets"] == ["animals"]
    assert front["base_model"] == "timm/test_efficientnet.r160_in1k"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "| score | validation (40 images) | test (300 images) |" in text
    assert "| Accuracy | 50.00% | 90.00% |" in text
    assert "| 95% interval |  | 86.00% to 93.00% |" in text
    assert "| cat | 80.00% | 70.00% | 75.00% | 100 |" in text
    assert "local-dir:" in text
    assert "2. b\\|rd" in text
    for title in ("Classes", "How to use it", "Preprocessing", "Scores", "Intended use and limits"):
        assert f"## {title}\n" in text


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ("MIT", {"license": "mit"}),
        ("Research only", {"license": "other", "license_name": "Research only"}),
        ("", {"license": "unknown"}),
    ],
)
def test_the_licence_is_that_of_the_weights(tmp_path, stated, shown):
    front, _ = card(tmp_path, weights=WEIGHTS | {"license": stated})
    assert {key: front[key] for key in ("license", "license_name") if key in front} == shown


@pytest.mark.parametrize(
    ("weights", "images", "warned"),
    [
        ("mit", "cc-by-nc-4.0", ["does not allow commercial use"]),
        ("cc-by-nc-sa-4.0", "mit", ["does not allow commercial use", "same terms"]),
        ("AGPL-3.0", "cc0-1.0", ["same terms"]),
        ("apache-2.0", None, ["licence of the images is not stated"]),
        ("apache-2.0", "cc-by-4.0", []),
    ],
)
def test_the_card_warns_of_licences_that_forbid_what_people_usually_do(tmp_path, weights, images, warned):
    data = {"licence": images, "images": {"train": 1200, "val": 80, "test": 90}}
    _, text = card(tmp_path, weights=WEIGHTS | {"license": weights}, data=data)
    warnings = text.partition("## Licences")[2].partition("##")[0]
    assert [warning for warning in warned if warning not in warnings] == []
    assert ("- The licence" in warnings) == bool(warned)
    assert "| images: train | 1,200 |" in text
    assert load_bundle(tmp_path / "model").data == data


def test_the_card_names_the_classes_that_are_missed_and_those_hardly_tested(tmp_path):
    figures = {"precision": 0.9, "f1-score": 0.9}
    per_class = {
        "cat": figures | {"recall": 0.4, "support": 100},
        "dog": figures | {"recall": 0.9, "support": 3},
        "owl": figures | {"recall": 0.0, "support": 0},
    }
    _, text = card(tmp_path, metrics={"test": {"accuracy": 0.9, "n": 103, "per_class": per_class}})
    assert "Do not rely on it to find cat (40% found)." in text
    assert "Fewer than 20 test images tell how well it does on dog and owl" in text


@pytest.mark.parametrize("changes", [{"hidden": (8,)}, {"architecture": "resnet50v1_keras"}])
def test_the_card_does_not_promise_timm_what_timm_can_not_build(tmp_path, changes):
    front, text = card(tmp_path, **changes)
    assert front["library_name"] == "headstart"
    assert "local-dir" not in text
    assert "Not measured yet" in text
