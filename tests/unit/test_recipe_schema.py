"""Recipes are plain data: every mistake is named at once, and what is written reads back equal."""

import pytest
import yaml
from pydantic import BaseModel

from headstart.errors import RecipeError
from headstart.recipe.schema import Recipe, differences, dump_recipe, load_recipe, parse_recipe, shipped_recipes


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_an_empty_mapping_is_the_documented_default(file):
    assert load_recipe(file("{}")) == Recipe()


def test_overrides_reach_any_depth_and_are_yaml(file):
    recipe = load_recipe(
        file("finetune: {lr: 0.1, augment: {mixup: 0.2}}"),
        [
            "finetune.lr=1e-4",
            "finetune.augment.flip=false",
            "finetune.freeze.stages=2",
            "head.hidden=[512, 256]",
            "probe.solver=adam",
            "finetune.schedule=[{epochs: 1, size: 64}, {epochs: 2, size: 96}]",
            "finetune.class_weights={cat: 2}",
        ],
    )
    assert recipe.finetune.lr == 1e-4
    assert recipe.finetune.augment.flip is False
    assert recipe.finetune.augment.mixup == 0.2, "an override must leave its neighbours alone"
    assert recipe.finetune.freeze.stages == 2
    assert recipe.head.hidden == (512, 256)
    assert [(step.epochs, step.size) for step in recipe.finetune.schedule] == [(1, 64), (2, 96)]
    assert recipe.finetune.class_weights == {"cat": 2.0}


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("1E3", 1e3), ("0.5", 0.5), ("3", 3.0)])
def test_numbers_may_be_written_as_people_write_them(file, text, number):
    assert load_recipe(file("{}"), [f"finetune.lr={text}"]).finetune.lr == number


def test_a_section_can_be_switched_off(file):
    assert load_recipe(file("{}"), ["probe=null"]).probe is None
    assert load_recipe(file("finetune:"), []).finetune is None


def test_settings_of_the_command_line_win_and_none_means_not_given(file):
    recipe = load_recipe(file("seed: 3"), [], data__limit=100, seed=None, backbone="resnet18.a1_in1k")
    assert (recipe.data.limit, recipe.seed, recipe.backbone) == (100, 3, "resnet18.a1_in1k")


def test_every_mistake_is_named_at_once(file):
    with pytest.raises(RecipeError) as caught:
        load_recipe(file("{sed: 1, finetune: {lr: -1, augment: {mixupp: 1}}, data: {limit: 0, val_fraction: 2}}"))
    message = str(caught.value)
    assert "sed: unknown key. Did you mean 'seed'?" in message
    assert "finetune.lr: input should be greater than 0 (got -1)" in message
    assert "finetune.augment.mixupp: unknown key. Did you mean 'mixup'? Allowed in finetune.augment:" in message
    assert "data.limit: input should be greater than or equal to 1 (got 0)" in message
    assert "data.val_fraction" in message
    assert len(message.splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{probe: null, finetune: null}", "nothing would be trained"),
        ("head: {hidden: [512]}", "needs a linear head"),
        ("{weights: none, finetune: null}", "random backbone"),
        ("seed: -1", "seed"),
        ("seed: 2147483648", "seed"),
        ("finetune: {schedule: [{epochs: 1, sizes: 64}]}", "Did you mean 'size'?"),
        ("finetune: {schedule: [{epochs: 0, size: 64}]}", "finetune.schedule.0.epochs"),
        ("hardware: {precision: fp8}", "'auto', 'fp32', 'bf16' or 'fp16'"),
        ("probe: {solver: sgd}", "'lbfgs' or 'adam'"),
        ("finetune: {class_weights: {cat: 0}}", "class_weights"),
        ("data: cifar10", "data"),
        ("preprocessing: keras", "'weights' or 'unit'"),
        ("interpolation: lanczos", "'weights', 'bilinear' or 'bicubic'"),
        ("finetune: {augment: {stronger: {cat: 0}}}", "finetune.augment.stronger.cat"),
        ("finetune: {augment: {trivial: 0.5, stronger: {cat: 0.5}}}", "gives 'cat' 0.5, which is not more"),
        ("[1, 2]", "must be a mapping of keys to values, but is a list"),
        ("", "must be a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_cause(file, text, said):
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        load_recipe(file(text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.lr", "expected key=value"),
        ("seed.deep=1", "seed"),
        ("finetune.lr=[", "not valid YAML"),
        ("finetune.lr=fast", "finetune.lr"),
        ("=1", "unknown key"),
    ],
)
def test_a_wrong_override_is_refused_with_the_cause(file, override, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(file("seed: 0"), [override])
    assert said in str(caught.value)


def test_unknown_recipes_are_answered_with_what_there_is():
    with pytest.raises(RecipeError, match=r"Unknown recipe 'quikstart'.*Did you mean 'quickstart'\?"):
        load_recipe("quikstart")
    with pytest.raises(RecipeError, match=r"no recipe file at nowhere/mine\.yaml.*quickstart"):
        load_recipe("nowhere/mine.yaml")


@pytest.mark.parametrize("overrides", [[], ["probe=null", "data.limit=7"], ["finetune=null"], ["probe.flip=true"]])
def test_what_is_written_reads_back_equal(file, overrides):
    recipe = load_recipe(file("{}"), overrides)
    again = load_recipe(file(dump_recipe(recipe)))
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_the_input_size_is_that_of_evaluation_else_of_the_last_training_step():
    assert parse_recipe({"evaluation": {"size": 160}}, "x").input_size == 160
    steps = [{"epochs": 1, "size": 64}, {"epochs": 1, "size": 96}]
    assert parse_recipe({"finetune": {"schedule": steps}}, "x").input_size == 96
    assert parse_recipe({"finetune": None, "probe": {"size": 80}}, "x").input_size == 80


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 1


def sections(model=Recipe, seen=None):
    seen = {} if seen is None else seen
    seen[model.__name__] = model
    for field in model.model_fields.values():
        for inner in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner.__name__ not in seen:
                sections(inner, seen)
    return seen


def test_every_key_is_documented():
    found = sections()
    assert set(found) >= {
        "Recipe",
        "DataRecipe",
        "ProbeRecipe",
        "FinetuneRecipe",
        "AugmentRecipe",
        "SizeStep",
    }
    for name, model in found.items():
        assert model.__doc__, name
        for key, field in model.model_fields.items():
            assert field.description, f"{name}.{key} has no docstring"


def test_shipped_recipes_are_listed_by_name():
    names = shipped_recipes()
    assert names == sorted(names)
    assert "quickstart" in names
    assert all(yaml.safe_load(dump_recipe(load_recipe(name))) for name in names)


def test_differences_are_told_key_by_key():
    one = parse_recipe({"finetune": {"class_weights": {"cat": 2}}}, "x")
    other = parse_recipe({"seed": 3, "finetune": {"lr": 0.1}}, "x")
    told = differences(one, other)
    assert "seed is 0 there and 3 here" in told
    assert "finetune.lr is None there and 0.1 here" in told
    assert "finetune.class_weights.cat is 2.0 there and None here" in told
    assert differences(one, one) == ""
