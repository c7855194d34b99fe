"""Recipes are plain data: every mistake is named at once, and what is written reads back equal."""

import time
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from headstart.errors import RecipeError
from headstart.recipe.read import read_yaml_file
from headstart.recipe.schema import Recipe, differences, dump_recipe, load_recipe, parse_recipe, shipped_recipes
from headstart.recipe.tree import apply_overrides


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_an_empty_mapping_is_the_documented_default(file):
    assert load_recipe(file("{}")) == Recipe()


def test_words_are_taken_as_they_were_typed_where_classes_are_named(file):
    weights = "{0: 2, yes: 3, no: 4, 1.50: 5, ~: 6, 2024-01-01: 7}"
    text = f"finetune: {{class_weights: {weights}, augment: {{stronger: {{007: 0.5}}}}}}"
    for recipe in (load_recipe(file(text)), load_recipe(file(dump_recipe(load_recipe(file(text)))))):
        weights = {"0": 2.0, "yes": 3.0, "no": 4.0, "1.50": 5.0, "~": 6.0, "2024-01-01": 7.0}
        assert recipe.finetune.class_weights == weights
        assert recipe.finetune.augment.stronger == {"007": 0.5}
    recipe = load_recipe(file("{}"), ["finetune.class_weights={no: 2}", "finetune.augment.stronger.0=0.5"])
    assert recipe.finetune.class_weights == {"no": 2.0}
    assert recipe.finetune.augment.stronger == {"0": 0.5}


def test_a_date_is_text(file):
    assert load_recipe(file("description: 2024-13-99")).description == "2024-13-99"


def test_anchors_and_merges_still_work(file):
    recipe = load_recipe(file("probe: &p {size: 64, flip: true}\nfinetune: {augment: {<<: {flip: false}, views: 0}}"))
    assert recipe.finetune.augment.flip is False
    own = load_recipe(file("data: &d {limit: 5}\nfinetune: {schedule: [&s {epochs: 1, size: 32}, {<<: *s, size: 48}]}"))
    assert [(step.epochs, step.size) for step in own.finetune.schedule] == [(1, 32), (1, 48)]
    assert recipe.probe.size == 64


def test_paths_in_a_recipe_file_count_from_its_folder(file, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "w.pth").touch()
    monkeypatch.chdir("/")
    recipe = load_recipe(file("data: {name: ./photos}\nweights: w.pth"))
    assert recipe.data.name == str(tmp_path / "photos")
    assert recipe.weights == str(tmp_path / "w.pth")
    # What is not there may lie in the working folder, as it had to before.
    recipe = load_recipe(file("data: {name: ./other}\nweights: other.pth"))
    assert (recipe.data.name, recipe.weights) == ("./other", "other.pth")


def test_names_that_are_no_paths_stay_as_they_are(file, tmp_path):
    for name in ("cifar10", "auto"):
        (tmp_path / name).touch()
    recipe = load_recipe(file("data: {name: cifar10}"))
    assert (recipe.data.name, recipe.weights) == ("cifar10", "auto")
    assert load_recipe(file("weights: " + "x" * 4000)).weights == "x" * 4000
    assert load_recipe(file("weights: ~/w.pth")).weights == "~/w.pth"


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
        ("finetune: {sampling: balanced, class_weights: balanced}", "count twice"),
        ("head: {hidden: [512]}", "needs a linear head"),
        ("{weights: none, finetune: null}", "random backbone"),
        ("{head: {dropout: 0.2}, finetune: null}", "head.dropout would have no effect"),
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
        ("seed: 1\nseed: 2", "line 2: the key 'seed' is given twice"),
        ("finetune: {class_weights: {yes: 1, 'yes': 2}}", "the key 'yes' is given twice"),
        ("finetune: {schedule: []}", "finetune.schedule"),
        ("finetune: {lr: .inf}", "finetune.lr: input should be a finite number"),
        ("finetune: {lr: .nan}", "finetune.lr: input should be a finite number"),
        ("finetune: {lr: 1" + "0" * 400 + ".0}", "finetune.lr: input should be a finite number"),
        ("finetune: {lr: true}", "finetune.lr: input should be a number, not true or false (got True)"),
        ("probe: {size: yes}", "probe.size: input should be a number, not true or false (got True)"),
        ("data: {limit: true}", "data.limit: input should be a number"),
        ("finetune: {freeze: {stages: .inf}}", "finetune.freeze.stages"),
        ("head: {hidden: [.inf]}", "head.hidden.0"),
        ("head: {hidden: [1000000]}", "head.hidden.0: input should be less than or equal to 65536"),
        ("head: {hidden: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "head.hidden"),
        ("finetune: {freeze: {stages: 1.5}}", "a whole number, or a share below 1"),
        ("finetune: {augment: {mixup: 1e-300}}", "input should be 0 or at least 0.001"),
        ("finetune: {augment: {cutmix: 1.0e-300}}", "input should be 0 or at least 0.001"),
        (
            "finetune: {class_weights: {cat: .inf}}",
            "finetune.class_weights.cat: input should be a finite number (got inf)",
        ),
        ("finetune: {class_weights: {cat: 1.0e+300}}", "class_weights"),
        ("finetune: {class_weights: {cat: 1.0e-300}}", "class_weights"),
        ("finetune: {class_weights: {cat: true}}", "class_weights.cat: input should be a number, not true or false"),
        ("finetune: {class_weights: even}", "class_weights: input should be 'balanced' (got 'even')"),
        ("finetune: {augment: {stronger: {cat: .nan}}}", "finetune.augment.stronger.cat"),
        ("seed: " + "1" * 5000, "a number of 5,000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("a: " + "[" * 100, "more than 30 levels"),
        ("a: &a [*a]", "more than 30 levels"),
        ("a: [" + "1," * 60_000 + "]", "more than 50,000 values"),
        ("seed: !!timestamp 2024-99-99", "not allowed"),
        ("seed: !!python/name:os.system x", "not allowed"),
        ("? [a]\n: 1", "a key must be a single word"),
        ("<<: 3", "<< must be followed by a mapping"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: *b", "undefined alias"),
        ("seed: !!int cat", "not of the kind"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_cause(file, text, said):
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        load_recipe(file(text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "largest"),
    [
        ("seed", 2**31 - 1),
        ("data.limit", 10**9),
        ("probe.size", 2048),
        ("probe.l2", 1e6),
        ("probe.epochs", 10_000),
        ("probe.batch_size", 65_536),
        ("probe.lr", 1000),
        ("evaluation.size", 2048),
        ("finetune.batch_size", 65_536),
        ("finetune.lr", 1000),
        ("finetune.weight_decay", 100),
        ("finetune.layer_decay", 1),
        ("finetune.clip_norm", 1e6),
        ("finetune.patience", 10_000),
        ("finetune.freeze.stages", 1000),
        ("finetune.augment.max_aspect", 100),
        ("finetune.augment.mixup", 1000),
        ("finetune.augment.views", 1000),
        ("hardware.checkpoint_minutes", 10_080),
    ],
)
def test_every_number_has_a_largest_value_that_makes_sense(key, largest):
    extra = {"finetune.freeze.stages": 1} if key.endswith("views") else {}
    assert load_recipe({}, extra | {key: largest})
    with pytest.raises(RecipeError, match=f"{key}: input should be less than"):
        load_recipe({}, extra | {key: largest * 2})


def test_numbers_without_a_bound_are_named():
    """A new key must state its bounds: infinity, a number that is none, and a huge one are refused everywhere."""
    for path in numbers():
        for wrong in (float("inf"), float("nan"), 10**18, True):
            tree = {}
            apply_overrides(tree, {path: wrong})
            if path.startswith("finetune.schedule."):
                tree["finetune"]["schedule"] = [tree["finetune"]["schedule"]]
            with pytest.raises(RecipeError, match=path.replace("schedule.", "schedule.0.")):
                parse_recipe(tree, "x")


def numbers(model=Recipe, prefix=""):
    for name, field in model.model_fields.items():
        for inner in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if inner in (int, float) or getattr(inner, "__origin__", None) in (int, float):
                yield f"{prefix}{name}"
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from numbers(inner, f"{prefix}{name}.")


def test_all_numbers_are_found():
    assert len(set(numbers())) >= 25


@pytest.mark.parametrize("levels", [9, 200])
def test_a_bomb_of_aliases_costs_nothing(file, levels):
    lines = ["seed: &a0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"k{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    started = time.monotonic()
    with pytest.raises(RecipeError, match="more than 50,000 values"):
        load_recipe(file("\n".join(lines)))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("place", ["value", "key", "many keys", "override", "yaml error", "name"])
def test_a_wrong_value_is_not_echoed_whole(file, place):
    long = "x" * 400_000
    texts = {
        "value": f"seed: {long}",
        "key": f"{long[:100_000]}: 1",
        "many keys": "\n".join(f"k{n}: 1" for n in range(2000)),
        "yaml error": f"seed: *{long}",
    }
    name = long if place == "name" else file(texts.get(place, "{}"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, [f"seed={long}"] if place == "override" else [])
    assert len(str(caught.value)) < (10_000 if place == "many keys" else 1500)


def test_a_recipe_file_that_cant_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "latin.yaml").write_bytes("description: Käse".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    told = {"folder": "is a folder", "loop": "can't be read", "latin": "not text in UTF-8", "large": "at most 1 MB"}
    for name, words in told.items():
        with pytest.raises(RecipeError, match=rf"{name}\.yaml .*{words}"):
            load_recipe(str(tmp_path / f"{name}.yaml"))
    for name in ("x" * 300 + ".yaml", "nul\0.yaml", str(tmp_path / "latin.yaml" / "a.yaml")):
        with pytest.raises(RecipeError, match="can't be read"):
            load_recipe(name)

    def closed(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(RecipeError, match=r"latin\.yaml .*no permission"):
        load_recipe(str(tmp_path / "latin.yaml"))


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
    with pytest.raises(RecipeError, match=r"nowhere/mine\.yaml .*no such file.*quickstart"):
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


@pytest.mark.timeout(20)
def test_a_device_without_end_is_not_read_whole():
    with pytest.raises(RecipeError, match="at most 1 MB are read"):
        read_yaml_file(Path("/dev/zero"), "Plan", absent="")
