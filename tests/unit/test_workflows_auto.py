"""The rules that choose a recipe, by table, and what a run makes of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

import headstart
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store
from headstart.errors import RecipeError, TrainingError
from headstart.models.architectures import create_network
from headstart.recipe.schema import Recipe, load_recipe
from headstart.runs.run import Run
from headstart.training.timing import Speed
from headstart.workflows.auto import Facts, choose, completed, predicted_seconds, structure, told
from headstart.workflows.resolve import default_recipe
from headstart.workflows.steady import Steady

PHOTOS = Facts(train=1800, val=200, test=500, classes=6, smallest=110, largest=480, side=112, aspect=1.33)
CPU = Speed((128,), (1 / 100,), (1 / 350,))
"""Two cores: 100 images of 128 px a second in training, 350 in a forward pass."""
ARITHMETIC = {"hardware.precision": "fp32", "hardware.memory_format": "contiguous"}
"""Timing what is fastest takes longer than what these tests are about."""


def chosen(facts=PHOTOS, speed=CPU, seconds=290.0, *, whole=True, size=None):
    choice = choose(facts, speed, seconds, whole=whole, size=size)
    return choice, completed(Recipe(), choice.tree)


@pytest.mark.parametrize("seconds", [60, 120, 300, 900, 3600])
@pytest.mark.parametrize("train", [20, 100, 500, 2000, 10_000, 100_000])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_chosen_fits_into_the_time(train, seconds, whole):
    facts = replace(PHOTOS, train=train, val=train // 9)
    _, recipe = chosen(facts, seconds=seconds, whole=whole)
    predicted = predicted_seconds(recipe, facts, CPU)
    cheapest = facts.train * CPU.forward_at(64)
    assert predicted <= seconds or cheapest > 0.5 * seconds


@pytest.mark.parametrize(
    ("side", "largest"),
    [(28, 160), (112, 160), (150, 192), (480, 224)],
)
def test_plenty_of_time_takes_the_largest_size_that_pays(side, largest):
    choice, recipe = chosen(replace(PHOTOS, side=side), seconds=1e6)
    assert choice.size == largest
    assert recipe.finetune.schedule[0].epochs == 16
    assert choice.more_time.startswith("More time would change nothing")


def test_little_time_takes_smaller_images_then_the_head_alone():
    sizes = [chosen(seconds=s)[0].size for s in (1200, 240, 110)]
    assert sizes[0] > sizes[1] > sizes[2] >= 96
    choice, recipe = chosen(seconds=15)
    assert (recipe.finetune, choice.size) == (None, None)
    assert recipe.probe.size < 128
    needed = choice.needed_budget(20)
    assert f"--budget {needed // 60}min has room" in told(choice, budget=20, seconds=20, megabytes=1)[-1]
    # The budget counts from the start of the command, 5 s before.
    assert chosen(seconds=needed - 5, whole=False)[1].finetune.schedule[0].epochs >= 8
    assert needed - 60 < 20 + choice.lacking
    assert choose(PHOTOS, CPU, 15, whole=False, tuned=False).needed_budget(20) is None


@pytest.mark.parametrize("seconds", [110, 240, 400])
def test_the_budget_that_is_named_has_room_for_what_it_promises(seconds):
    choice, recipe = chosen(seconds=seconds, whole=False)
    more = choice.more_budget(seconds + 5)
    assert (
        f"{choice.more_time} --budget {more // 60}min has"
        in told(choice, budget=seconds + 5, seconds=1, megabytes=1)[-1]
    )
    better, richer = chosen(seconds=more - 5, whole=False)
    promised = better.size if "px" in choice.more_time else richer.finetune.schedule[0].epochs
    before = choice.size if "px" in choice.more_time else recipe.finetune.schedule[0].epochs
    assert f"{promised} " in choice.more_time
    assert promised > before
    assert choice.without({"finetune": {"schedule": []}}).more_budget(seconds) is None


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"aspect": 1.0}, "fit", "crop"),
        ({"aspect": 1.33}, "fit", "stretch"),
        ({"aspect": 3.0}, "fit", "pad"),
    ],
)
def test_images_that_are_not_square_are_not_cut(change, key, value):
    assert structure(replace(PHOTOS, **change), whole=True)[key] == value


def test_where_nothing_fits_few_images_are_still_not_made_tiny():
    few = replace(PHOTOS, train=30, val=4, test=10)
    assert choose(few, CPU, -10, whole=False).tree["probe"]["size"] == 160
    assert choose(replace(PHOTOS, train=100_000), CPU, 30, whole=False).tree["probe"]["size"] == 64


def test_very_uneven_classes_are_weighted_and_said_so():
    even, uneven = (replace(PHOTOS, smallest=n) for n in (400, 20))
    assert chosen(even)[1].finetune.class_weights is None
    choice, recipe = chosen(uneven)
    assert recipe.finetune.class_weights == "balanced"
    assert any("largest has 480 images, the smallest 20" in line for line in choice.reasons.values())


def test_batches_fit_few_images():
    assert chosen(replace(PHOTOS, train=8, val=2), seconds=600)[1].finetune.batch_size == 2
    of_three = [structure(replace(PHOTOS, train=n, processes=3), whole=True) for n in (8, 30, 900)]
    assert [tree["finetune"]["batch_size"] for tree in of_three] == [3, 6, 30]


def test_what_was_asked_for_goes_before_what_is_chosen():
    asked = load_recipe("auto", {"finetune.lr": 5e-5, "evaluation.flip": False, "seed": 3})
    recipe = completed(asked, choose(PHOTOS, CPU, 290, whole=True).tree)
    assert (recipe.finetune.lr, recipe.evaluation.flip, recipe.seed) == (5e-5, False, 3)
    assert recipe.finetune.schedule[0].epochs > 1
    assert recipe.budget is None


def test_without_fine_tuning_the_largest_images_are_chosen_for_the_probe():
    choice = choose(PHOTOS, CPU, 290, whole=True, tuned=False)
    assert (choice.tree["finetune"], choice.tree["probe"]["size"]) == (None, 160)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"finetune": {"schedule": [{"epochs": 2, "size": 64}]}}, {"finetune.freeze", "finetune.augment", "fit", ""}),
        ({"finetune": None}, {"fit", ""}),
        ({"finetune": {"augment": {"trivial": 0}}}, {"finetune.schedule", "finetune.freeze", "fit", ""}),
        ({"seed": 3}, {"finetune.schedule", "finetune.freeze", "finetune.augment", "fit"}),
    ],
)
def test_no_reason_is_given_for_what_was_asked_for(asked, left):
    assert set(choose(PHOTOS, CPU, 290, whole=True).without(asked).reasons) == left


def test_very_few_images_leave_the_first_stages_alone_and_say_so():
    choice, recipe = chosen(replace(PHOTOS, train=90, val=10), whole=False)
    assert recipe.finetune.freeze.stages > 0
    assert (recipe.finetune.lr, recipe.finetune.augment.trivial) == (3e-4, 0.0)
    assert "so few images" in choice.reasons["finetune.freeze"]
    assert "all of the network" not in choice.more_time


def test_learning_rates_follow_the_kind_of_network():
    rates = [
        chosen(speed=replace(CPU, rate=rate), whole=whole)[1].finetune.lr
        for rate in (3e-4, 1e-4)
        for whole in (True, False)
    ]
    assert rates == [3e-4, 5e-4, 1e-4, 1.67e-4]


def test_time_grows_with_pixels_between_and_beyond_what_was_measured():
    speed = Speed((100, 200), (1.0, 3.0), (0.5, 1.0))
    assert (speed.train_at(100), speed.train_at(200)) == (1.0, 3.0)
    assert 1.0 < speed.train_at(150) < 3.0
    assert (speed.train_at(400), speed.train_at(50)) == (pytest.approx(12.0), pytest.approx(0.25))


def test_the_prediction_counts_every_part():
    base = completed(Recipe(), choose(PHOTOS, CPU, 290, whole=True).tree)
    whole = predicted_seconds(base, PHOTOS, CPU)
    less = [
        predicted_seconds(base.model_copy(update={"finetune": None}), PHOTOS, CPU),
        predicted_seconds(base.model_copy(update={"probe": None}), PHOTOS, CPU),
        predicted_seconds(base, replace(PHOTOS, test=0), CPU),
        predicted_seconds(base, PHOTOS, replace(CPU, forward=(1e-4,))),
    ]
    assert all(seconds < whole for seconds in less)
    # Features of at most 2,000 training images, mirrored too, say what is unfamiliar.
    more = predicted_seconds(base, replace(PHOTOS, train=2200), CPU) - predicted_seconds(
        base, replace(PHOTOS, train=2100), CPU
    )
    assert predicted_seconds(base, replace(PHOTOS, train=1900), CPU) > whole + more
    assert predicted_seconds(base, PHOTOS, replace(CPU, read=0.01)) == pytest.approx(whole + 7)


def test_a_prediction_beyond_the_time_is_said():
    lines = told(choose(PHOTOS, CPU, 290, whole=True), budget=300, seconds=400, megabytes=1500)
    assert any("6 min 40 s of the 5 min 0 s" in line and "more than the time" in line for line in lines)


@pytest.mark.parametrize(("text", "seconds"), [("5min", 300), ("90s", 90), ("90", 90), ("1.5 h", 5400), (300, 300)])
def test_a_budget_is_a_time(text, seconds):
    assert load_recipe("auto", {"budget": text}).budget == seconds


@pytest.mark.parametrize("text", ["soon", "5 days", "1s", True, "-5min", "5", 4e7])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(RecipeError, match=r"budget.*(5min|a number)"):
        load_recipe("auto", {"budget": text})


def test_own_images_take_auto_and_cifar10_quickstart(tmp_path):
    assert default_recipe("cifar10", budget=False) == "quickstart"
    assert default_recipe("cifar10", budget=True) == default_recipe(tmp_path, budget=False) == "auto"


def test_a_run_keeps_what_was_chosen_and_predicted(sample_dir, tmp_path, own_home, monkeypatch):
    monkeypatch.setattr("headstart.workflows.plan.MEASURED", (64,))
    out = tmp_path / "run"
    small = {"weights": "none", "backbone": "test_efficientnet", "hardware.precision": "fp32", "evaluation.size": 64}
    small |= {"finetune.schedule": [{"epochs": 1, "size": 64}], "probe.size": 64}
    call = {"out": out, "overrides": small, "budget": "1h", "limit": 100, "progress": False, "threads": 1}
    metrics = headstart.train(sample_dir, **call)
    run = Run(out)
    assert run.recipe().budget is None
    assert run.recipe().finetune.schedule[0].epochs == 1
    plan = run.environment().plan
    assert (plan["budget"], plan["facts"]["train"]) == (3600, 89)
    assert plan["reasons"]
    assert metrics["predicted_seconds"] == plan["predicted_seconds"] > 0
    assert json.loads((out / "metrics.json").read_text())["predicted_mb"] == plan["predicted_mb"] > 100
    # A second call with the same words is the same run; nothing is chosen again.
    assert headstart.train(sample_dir, **call, resume=True).test.accuracy == metrics.test.accuracy


@pytest.mark.parametrize(("slower", "same"), [(1.2, True), (3.0, False)])
def test_the_same_command_chooses_the_same_while_the_machine_is_about_as_fast(
    sample_dir, tmp_path, own_home, monkeypatch, slower, same
):
    factor = 1.0

    def measured(*_, read):
        return Speed((128,), (0.02 * factor,), (0.005 * factor,), read)

    monkeypatch.setattr("headstart.workflows.plan.measure_speed", measured)
    monkeypatch.setattr("headstart.workflows.train.fit", stop)
    small = {"weights": "none", "backbone": "test_efficientnet", **ARITHMETIC}

    def planned(name):
        with pytest.raises(TrainingError):
            headstart.train(sample_dir, out=tmp_path / name, overrides=small, budget="2min", progress=False, threads=1)
        run = Run(tmp_path / name)
        return run.recipe().finetune, run.environment().plan["predicted_seconds"]

    before, soon = planned("before")
    factor = slower
    after, late = planned("after")
    assert (before == after) is same
    assert late > soon if same else True


@pytest.mark.parametrize(
    ("budget", "all_of_it", "whole"), [("3min", 0.02, False), ("1h", 0.02, True), ("1h", 4.0, False)]
)
def test_all_of_the_network_is_trained_only_where_a_part_has_all_it_needs(
    sample_dir, tmp_path, own_home, monkeypatch, budget, all_of_it, whole
):
    def measured(recipe, *_, read):
        train = 0.02 if recipe.finetune.freeze.depthwise else all_of_it
        return Speed((128,), (train,), (0.005,), read)

    monkeypatch.setattr("headstart.workflows.plan.measure_speed", measured)
    monkeypatch.setattr("headstart.workflows.train.fit", stop)
    monkeypatch.setattr("headstart.workflows.plan.VERY_FEW", 10)
    small = {"weights": "none", "backbone": "test_efficientnet", **ARITHMETIC}
    with pytest.raises(TrainingError):
        headstart.train(sample_dir, out=tmp_path / "run", overrides=small, budget=budget, progress=False, threads=1)
    assert Run(tmp_path / "run").environment().plan["needed_budget"] is None
    tune = Run(tmp_path / "run").recipe().finetune
    assert tune.freeze.depthwise is not whole
    assert tune.schedule[0].size == 160


def test_a_budget_without_room_for_fine_tuning_names_one_that_has(sample_dir, tmp_path, own_home, monkeypatch):
    monkeypatch.setattr("headstart.workflows.plan.measure_speed", lambda *_, read: Speed((128,), (1.0,), (0.01,), read))
    monkeypatch.setattr("headstart.workflows.train.fit", stop)
    network = create_network("test_efficientnet", num_classes=10, seed=1)
    save_file({name: part.contiguous() for name, part in network.state_dict().items()}, tmp_path / "w.safetensors")
    small = {"weights": str(tmp_path / "w.safetensors"), "backbone": "test_efficientnet"}
    small |= ARITHMETIC
    with pytest.raises(TrainingError):
        headstart.train(sample_dir, out=tmp_path / "run", overrides=small, budget="1min", progress=False, threads=1)
    run = Run(tmp_path / "run")
    assert run.recipe().finetune is None
    assert run.environment().plan["needed_budget"] % 60 == 0
    assert run.environment().plan["needed_budget"] > run.environment().plan["facts"]["train"] * 8 * (96 / 128) ** 2


def stop(*_):
    raise TrainingError("enough")


def test_figures_stay_as_remembered_only_while_they_are_near(own_home):
    key = {"machine": "this", "threads": 2}
    assert Steady(key)("speed", [1.0, 0.0]) == [1.0, 0.0]
    assert Steady(key)("speed", [1.2, 0.0]) == [1.0, 0.0]
    assert Steady(key)("speed", [1.2, 0.1]) == [1.2, 0.1]
    assert Steady(key)("speed", [0.9, 0.1]) == [0.9, 0.1]
    assert Steady(key)("speed", [2.0, 0.1], near=4) == [0.9, 0.1]
    assert Steady(key | {"threads": 1})("speed", [1.3, 0.1]) == [1.3, 0.1]
    [path, _] = sorted((own_home / "speed").iterdir(), key=lambda path: "0.9" not in path.read_text())
    path.write_text(path.read_text().replace("0.9", '"much"'))
    assert Steady(key)("speed", [1.0, 0.1]) == [1.0, 0.1]


def test_five_images_of_two_classes_are_enough(tmp_path, own_home, monkeypatch):
    monkeypatch.setattr("headstart.workflows.plan.MEASURED", (64,))
    images = np.random.default_rng(0).integers(0, 256, (16, 40, 60, 3), dtype=np.uint8)
    labels = np.arange(16) % 2
    write_store(
        tmp_path / "few",
        Arrays(images[:10], labels[:10], images[10:], labels[10:]),
        name="few",
        class_names=ClassNames(("a", "b")),
        source="a test",
    )
    small = {"weights": "none", "backbone": "test_efficientnet", "probe.size": 32, "evaluation.size": 32}
    small |= {"finetune.schedule": [{"epochs": 1, "size": 32}]}
    headstart.train(tmp_path / "few", out=tmp_path / "run", overrides=small, progress=False, threads=1)
    recipe = Run(tmp_path / "run").recipe()
    assert recipe.fit == "stretch"
    assert recipe.finetune.batch_size <= 8
