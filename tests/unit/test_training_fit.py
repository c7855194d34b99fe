"""The story of a run: what the parts hand to each other."""

import json
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

import headstart
from headstart.data.augment import Augmentation
from headstart.errors import InputError, RecipeError, RunError
from headstart.runs.run import Run
from headstart.training import fit as fit_module
from headstart.training.loop import fine_tune
from headstart.training.probe import fit_head
from headstart.training.schedule import Schedule

ADAM = {"probe": {"solver": "adam", "size": 32, "epochs": 2, "batch_size": 50}, "finetune": None}
TUNE = {"probe": None, "finetune": {"schedule": [{"epochs": 1, "size": 32}], "batch_size": 50}}
PLAIN = {
    "evaluation": {"size": 32, "flip": False},
    "hardware": {"precision": "fp32", "memory_format": "contiguous"},
    "backbone": "test_efficientnet.r160_in1k",
}


def train(sample_dir, out, recipe, **overrides):
    settings = {"limit": 100, "sealed": True, "progress": False}
    return headstart.train(sample_dir, PLAIN | recipe, out=out, overrides=overrides, **settings)


def weights_of(out):
    return load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("hidden", [[], [16]])
def test_the_dropout_of_the_head_is_used_when_the_head_is_trained_alone(own_home, sample_dir, tmp_path, hidden):
    made = {}
    for dropout in (0.0, 0.5):
        out, seen = tmp_path / str(dropout), []

        def spy(train, val, head, *arguments, seen=seen, **options):
            seen.append([layer.p for layer in head.modules() if isinstance(layer, torch.nn.Dropout)])
            return fit_head(train, val, head, *arguments, **options)

        changes = {"head.dropout": dropout, "head.hidden": hidden, "weights": "none", "finetune": TUNE["finetune"]}
        with (
            mock.patch.object(fit_module, "fit_head", spy),
            # The head alone is at issue here; a recipe from scratch can't go without fine-tuning.
            mock.patch.object(fit_module, "_fine_tune", return_value=fit_module._Trained(best_epoch=1)),
        ):
            train(sample_dir, out, ADAM, **changes)
        assert [p for p in seen[0] if p] == ([dropout] * (1 + len(hidden)) if dropout else [])
        made[dropout] = weights_of(out)
    plain, dropped = made.values()
    heads = [name for name in plain if name.startswith("classifier")]
    assert not any(torch.equal(plain[name], dropped[name]) for name in heads)


def test_the_weights_that_fine_tuning_returns_are_those_that_are_saved(own_home, sample_dir, tmp_path):
    kept = {}

    def spy(learner, *arguments, **options):
        best, progress = fine_tune(learner, *arguments, **options)
        kept.update({name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in best.items()})
        return kept, progress

    with mock.patch.object(fit_module, "fine_tune", spy):
        train(sample_dir, tmp_path / "run", TUNE, weights="none", **{"finetune.freeze.batch_norm": False})
    saved = weights_of(tmp_path / "run")
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept.items())


class Captured(Exception):  # noqa: N818
    pass


def test_every_setting_of_the_recipe_reaches_the_loop(own_home, sample_dir, tmp_path):
    settings = {
        "lr": 3e-3,
        "weight_decay": 0.07,
        "layer_decay": 0.6,
        "warmup": 0.25,
        "decay": "constant",
        "label_smoothing": 0.15,
        "class_weights": {"cat": 3},
        "ema": 0.9,
        "clip_norm": 0.7,
        "patience": 4,
        "schedule": [{"epochs": 1, "size": 32}, {"epochs": 2, "size": 40}],
        "freeze": {"stages": 1, "batch_norm": False},
        "augment": {"flip": False, "min_scale": 0.4, "max_aspect": 1.3, "trivial": 0.2, "mixup": 0.1, "cutmix": 0.5}
        | {"stronger": {"dog": 0.8}},
    }
    changes = {f"finetune.{key}": value for key, value in settings.items()} | {"hardware.checkpoint_minutes": 7}
    with mock.patch.object(fit_module, "fine_tune", side_effect=Captured) as loop, pytest.raises(Captured):
        train(sample_dir, tmp_path / "run", TUNE, weights="none", **changes)
    learner, batches, selection, checkpoints = loop.call_args.args

    optimization, steps = learner.optimization, 3 * (90 // 50)
    assert optimization.schedule == Schedule(3e-3, steps, 0.25, "constant")
    assert optimization.clip_norm == 0.7
    groups = optimization.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.07}
    assert {round(group["lr_scale"], 4) for group in groups} >= {1.0, 0.6, 0.36}
    assert {id(parameter) for group in groups for parameter in group["params"]} == {
        id(parameter) for parameter in learner.module.parameters() if parameter.requires_grad
    }
    assert learner.objective.label_smoothing == 0.15
    assert sorted(learner.objective.class_weights.tolist()) == [1] * 9 + [3]
    assert learner.average.decay == 0.9
    assert not learner.freeze_batch_norm
    assert learner.trained is learner.module
    assert selection.patience == 4
    assert (checkpoints.folder, checkpoints.seconds) == (tmp_path / "run" / "checkpoints", 420)
    assert batches.sizes == [32, 40, 40]
    assert batches.augmentation == Augmentation(
        flip=False, min_scale=0.4, max_aspect=1.3, trivial=0.2, stronger={"dog": 0.8}, mixup=0.1, cutmix=0.5
    )
    assert (batches.batch_size, batches.seed, batches.views) == (50, 0, 0)


def test_smoothing_does_not_change_what_the_history_calls_a_loss(own_home, sample_dir, tmp_path):
    """At a learning rate of nearly nothing, the loss is that of the network as it came in."""
    losses = []
    for smoothing in (0.0, 0.5):
        out = tmp_path / str(smoothing)
        changes = {"finetune.lr": 1e-12, "finetune.label_smoothing": smoothing, "weights": "none"}
        train(sample_dir, out, TUNE, **changes)
        [row] = (out / "history.csv").read_text().splitlines()[1:]
        losses.append(float(row.split(",")[1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_fp16_on_a_cpu_is_refused_before_anything_is_written(own_home, sample_dir, tmp_path):
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        train(sample_dir, tmp_path / "run", TUNE, **{"hardware.precision": "fp16", "weights": "none"})
    assert not (tmp_path / "run").exists()


def test_a_run_records_its_arithmetic_and_device(own_home, sample_dir, tmp_path):
    train(sample_dir, tmp_path / "run", TUNE, weights="none", **{"hardware.memory_format": "auto"})
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())
    [memory] = (own_home / "arithmetic").iterdir()
    assert recorded["arithmetic"] == json.loads(memory.read_text())["chosen"]
    assert recorded["device"] == "cpu"
    assert json.loads((tmp_path / "run" / "training.json").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("damage", [{"precision": "fp8"}, {"memory_format": 3}, {"milliseconds": ["x"]}])
def test_a_damaged_arithmetic_is_named(tmp_path, damage):
    arithmetic = {"precision": "fp32", "memory_format": "contiguous", "milliseconds": {}}
    (tmp_path / "environment.json").write_text(json.dumps({"arithmetic": arithmetic | {"of a later version": 1}}))
    assert fit_module._arithmetic(None, None, Run(tmp_path)).precision == "fp32"
    (tmp_path / "environment.json").write_text(json.dumps({"arithmetic": arithmetic | damage}))
    with pytest.raises(RunError, match=rf"environment\.json is damaged: arithmetic: {next(iter(damage))}"):
        fit_module._arithmetic(None, None, Run(tmp_path))


def test_checkpoints_go_before_the_page_that_makes_a_run_complete(own_home, sample_dir, tmp_path, monkeypatch):
    kept = []
    drop = Run.drop_checkpoints

    def spy(run):
        kept.append((sorted(path.name for path in run.checkpoints.iterdir()), run.is_complete))
        drop(run)

    monkeypatch.setattr(Run, "drop_checkpoints", spy)
    headstart.train(sample_dir, PLAIN | TUNE, out=tmp_path / "run", weights="none", limit=100, progress=False)
    [(files, complete)] = kept
    assert files
    assert all(name.startswith("step-") for name in files)
    assert not complete
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_run_is_resumed_on_the_gpu_it_began_on(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    (tmp_path / "environment.json").write_text(json.dumps({"device": "cuda:77"}))
    with pytest.raises(InputError, match="cuda:77"):
        headstart.resume(tmp_path, progress=False)
