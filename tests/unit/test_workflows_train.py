"""``headstart.train``: what it makes of its arguments, and what it does with a folder that holds a run already."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

import headstart
from headstart.data.sources.arrays import write_store
from headstart.errors import DataError, InputError, RecipeError, RunError, StoppedError, WeightsError
from headstart.models.architectures import create_network
from headstart.recipe.schema import Recipe, load_recipe

TINY = {
    "probe": {"solver": "adam", "size": 32, "epochs": 2},
    "finetune": None,
    "evaluation": {"size": 32, "flip": False},
    "hardware": {"precision": "fp32", "memory_format": "contiguous"},
}


@pytest.fixture
def tiny(tmp_path):
    """The tiny network that a run begins with, whose weights are random and lie in a file."""
    network = create_network("test_efficientnet", num_classes=10, seed=1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return {"backbone": "test_efficientnet", "weights": tmp_path / "w.safetensors", "progress": False}


@pytest.fixture
def resolved(tmp_path):
    """Returns the recipe that a call leads to; the work itself is replaced."""

    def call(*words, **options):
        with mock.patch("headstart.workflows.train.train_new", autospec=True) as run:
            headstart.train(*words, out=tmp_path / "run", progress=False, **options)
        recipe, out = run.call_args.args[:2]
        assert out == tmp_path / "run"
        return recipe

    return call


def test_paths_are_recorded_so_that_they_hold_in_any_folder(resolved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    recipe = resolved("data", weights="w.safetensors")
    assert (recipe.data.name, recipe.weights) == (str(tmp_path / "data"), str(tmp_path / "w.safetensors"))
    assert resolved(load_recipe("quickstart", {"data.name": "data"})).data.name == str(tmp_path / "data")


def test_the_shortest_call_is_quickstart(resolved):
    assert resolved("cifar10") == load_recipe("quickstart", {"data.name": "cifar10"})


def test_arguments_and_overrides_reach_the_recipe(resolved, tmp_path):
    (tmp_path / "2024").mkdir()
    changes = {"finetune.lr": 1e-5, "head.hidden": [32], "probe": None, "finetune.class_weights": {"cat": 2}}
    recipe = resolved(
        tmp_path / "2024", "quickstart", limit=500, backbone="resnet50v1.keras_in1k", seed=7, overrides=changes
    )
    assert (recipe.data.name, recipe.data.limit, recipe.seed) == (str(tmp_path / "2024"), 500, 7)
    assert (recipe.backbone, recipe.head.hidden, recipe.probe) == ("resnet50v1.keras_in1k", (32,), None)
    assert (recipe.finetune.lr, recipe.finetune.class_weights) == (1e-5, {"cat": 2.0})
    assert recipe.finetune.schedule == load_recipe("quickstart").finetune.schedule


def test_nested_dicts_are_a_recipe_and_stay_as_they_were(resolved):
    given = {"finetune": None, "probe": {"size": 48}}
    recipe = resolved("cifar10", given, limit=100, overrides={"probe.flip": True})
    assert recipe == load_recipe({}, {"finetune": None, "probe.size": 48, "probe.flip": True, "data.limit": 100})
    assert given == {"finetune": None, "probe": {"size": 48}}


def test_a_ready_recipe_alone_is_taken_as_it_is(resolved):
    recipe = load_recipe("cpu-best", {"finetune.patience": 3, "data.limit": 40, "seed": 5})
    assert resolved(recipe) == recipe
    assert resolved(recipe, seed=6) == recipe.model_copy(update={"seed": 6})


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        (("cifar10", {"finetune": {"lrr": 1}}), {}, "finetune.lrr: unknown key. Did you mean 'lr'"),
        (("cifar10", "quikstart"), {}, "Unknown recipe 'quikstart'"),
        (("cifar10",), {"overrides": {"head.hidden.width": 3, "head.hidden": 3}}, "head.hidden"),
        (("cifar10",), {"limit": 5, "overrides": {"data.limit": 6}}, "data.limit is given twice"),
        ((Recipe(), "quickstart"), {}, "Two recipes were given"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, words, options, told):
    with pytest.raises(InputError, match=told):
        headstart.train(*words, out=tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backbone": "resnet5O"}, "Did you mean 'resnet50"),
        ({"weights": "autoo"}, "Did you mean 'auto'"),
        ({"weights": __file__}, r"unknown kind '\.py'"),
        ({"overrides": {"hardware.precision": "fp16"}, "device": "cpu"}, "fp16"),
    ],
)
def test_what_needs_no_image_is_checked_before_any_is_read(sample_dir, tmp_path, monkeypatch, options, told):
    monkeypatch.setattr("headstart.workflows.train.load_data", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=told):
        headstart.train(sample_dir, TINY, out=tmp_path / "run", progress=False, **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_refused_unless_it_may_be_resumed(own_home, sample_dir, tiny, tmp_path):
    """One run from sealed to measured to measured again, trained once."""
    threads = torch.get_num_threads()
    options = {"out": tmp_path / "run", "limit": 100, "threads": threads} | tiny
    sealed = headstart.train(sample_dir, TINY, sealed=True, **options)
    assert set(sealed) == {"val"}
    assert not (tmp_path / "run" / "metrics.json").exists()
    made = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()

    for again in ({}, {"sealed": True}):
        with pytest.raises(RunError, match="already holds a run"):
            headstart.train(sample_dir, TINY, **again, **options)
    with pytest.raises(RunError, match=r"another recipe: probe\.epochs is 2 there and 3 here"):
        headstart.train(sample_dir, TINY, overrides={"probe.epochs": 3}, resume=True, **options)

    with mock.patch("headstart.workflows.train.fit", side_effect=AssertionError("trained again")):
        found = headstart.train(sample_dir, TINY, resume=True, **options)
        assert found["val"]["accuracy"] == sealed["val"]["accuracy"]
        assert found["test"]["n"] == 100
        with mock.patch("headstart.workflows.train.evaluate_run", side_effect=AssertionError("measured again")):
            assert headstart.train(sample_dir, TINY, resume=True, **options) == found
        assert headstart.evaluate(str(tmp_path / "run"), progress=False)["test"] == found["test"]
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == made


def test_a_run_is_not_gone_on_with_on_other_data(own_home, sample, sample_arrays, tiny, tmp_path):
    options = {"out": tmp_path / "run", "threads": torch.get_num_threads(), "resume": True} | tiny
    data = tmp_path / "data"
    write_store(data, sample_arrays, name="few", class_names=sample.class_names, source="a test")
    with (
        mock.patch("headstart.training.fit.save_bundle", side_effect=StoppedError("stopped")),
        pytest.raises(StoppedError),
    ):
        headstart.train(data, TINY, **options)
    shutil.rmtree(data)
    write_store(
        data,
        replace(sample_arrays, train_images=sample_arrays.train_images[:, ::-1].copy()),
        name="few",
        class_names=sample.class_names,
        source="a test",
    )
    manifest = (tmp_path / "run" / "split_manifest.csv").read_bytes()
    with pytest.raises(DataError, match="other images or labels than few"):
        headstart.train(data, TINY, **options)
    assert (tmp_path / "run" / "split_manifest.csv").read_bytes() == manifest


def test_a_network_without_a_feature_map_is_refused_before_the_test_split_is_opened(own_home, sample_dir, tmp_path):
    """What saliency maps are drawn from; a transformer pools tokens."""
    tune = {"schedule": [{"epochs": 1, "size": 32}], "batch_size": 16}
    from_scratch = {"probe": None, "finetune": tune, "evaluation.size": 32}
    headstart.train(
        sample_dir,
        TINY,
        overrides=from_scratch,
        limit=100,
        backbone="test_vit",
        weights="none",
        sealed=True,
        out=tmp_path / "run",
        progress=False,
    )
    with pytest.raises(WeightsError, match="need a convolutional network"):
        headstart.evaluate(tmp_path / "run", saliency=True, progress=False)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["test_openings"] == []


def test_another_kernel_of_the_resize_decides_the_features_and_travels_with_the_classifier(
    own_home, sample_dir, tmp_path
):
    """lite0's weights want bicubic; at 32 px nothing is resized, so the pictures are enlarged to 40."""
    options = {"sealed": True, "limit": 100, "threads": torch.get_num_threads(), "progress": False}
    at_40 = {"probe.size": 40, "evaluation.size": 40}
    kernel, nll = {}, {}
    for asked in ("weights", "bicubic", "bilinear"):
        out = tmp_path / asked
        found = headstart.train(sample_dir, TINY, overrides={**at_40, "interpolation": asked}, out=out, **options)
        kernel[asked] = json.loads((out / "model" / "config.json").read_text())["pretrained_cfg"]["interpolation"]
        nll[asked] = found["val"]["nll"]
    assert kernel == {"weights": "bicubic", "bicubic": "bicubic", "bilinear": "bilinear"}
    assert nll["weights"] == nll["bicubic"] != nll["bilinear"]


def test_errors_of_a_recipe_say_where_it_came_from(tmp_path):
    with pytest.raises(RecipeError, match="Recipe 'given in Python' can't be used"):
        headstart.train("cifar10", {"sed": 1}, out=tmp_path / "run")
    with pytest.raises(RecipeError, match="no such file"):
        headstart.train("cifar10", Path("nowhere/recipe.yaml"), out=tmp_path / "run")
