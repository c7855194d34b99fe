"""Stages are data: each resolves to an ordinary recipe, and every mistake in a plan is named."""

import pytest
import yaml

from headstart.errors import RecipeError
from headstart.recipe.tree import merged
from headstart.studies.plan import Stage, load_plan, resolve

SETTINGS = {"data": {"name": "cifar10", "limit": 10000}, "seed": 3, "backbone": "resnet50v1.keras_in1k"}
STAGES = ["as-published", "baseline", "finetune", "finetune-96", "schedule", "mix", "weak-classes", "deeper"]
BACKBONES = ["resnet50v1.keras_in1k", "tf_efficientnet_lite0.in1k", "vit_small_patch16_224.augreg_in21k_ft_in1k"]


def recipes(backbone, **options):
    """Every variant's recipe, each stage begun from the first variant of the one it starts from."""
    plan = load_plan(None)
    families = plan.families_of(backbone)
    found, first = {}, {}
    for stage in plan.stages:
        for name, change in stage.variants_for(families).items():
            base = first.get(stage.start_for(families))
            recipe = resolve(stage, change, base=base, settings=SETTINGS | {"backbone": backbone}, **options)
            first.setdefault(stage.name, recipe)
            found[stage.name, name] = recipe
    return found


def test_the_stages_are_those_of_the_published_study_and_its_next_steps():
    names = [stage.name for stage in load_plan(None).stages if not stage.aside]
    assert names == [*STAGES, "efficientnet", "best"]
    published = {s.name: s.published.accuracy for s in load_plan(None).stages if s.published.accuracy}
    steps = {"as-published": 0.3176, "baseline": 0.3176, "finetune": 0.7104, "finetune-96": 0.8882}
    assert published == {**steps, "finetune-as-published": 0.7104}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_variant_is_an_ordinary_recipe_for_any_backbone(backbone):
    found = recipes(backbone)
    assert len(found) >= 23
    assert all((recipe.seed, recipe.data.limit) == (3, 10000) for recipe in found.values())
    large = {"finetune-96", "schedule", "mix", "weak-classes", "deeper", "efficientnet"}
    flipped = {"best"} | (large if backbone.startswith("resnet") else set())
    assert all(recipe.evaluation.flip == (stage in flipped) for (stage, _), recipe in found.items())
    frozen = {"as-published", "preprocessing-only", "as-published-96", "preprocessing-only-96"}
    for (stage, name), recipe in found.items():
        if stage in frozen and backbone == "resnet50v1.keras_in1k":
            assert recipe.backbone == "resnet50v1.keras3_in1k", (stage, name)
        elif stage != "efficientnet":
            assert recipe.backbone == backbone, (stage, name)


def test_the_first_stages_differ_in_what_their_names_say():
    found = recipes("resnet50v1.keras_in1k")
    published, large = found["as-published", "only"], found["finetune-96", "only"]
    baseline, tuned = found["baseline", "published-head"], found["finetune", "only"]
    assert published.preprocessing == "unit"
    assert published.head.hidden == (512, 256)
    assert (published.probe.solver, published.probe.size, published.probe.epochs) == ("adam", 32, 10)
    assert published.finetune is None
    corrected = found["preprocessing-only", "only"]
    assert corrected.model_copy(update={"preprocessing": "unit", "description": published.description}) == published
    # What the published study leaves to chance is settled: which epoch is kept, and what bf16 does to faint features.
    settled = {"hardware": corrected.hardware.model_copy(update={"precision": "auto"})}
    settled |= {"probe": corrected.probe.model_copy(update={"keep": "best"}), "description": baseline.description}
    settled |= {"backbone": "resnet50v1.keras_in1k"}
    assert corrected.model_copy(update=settled) == baseline
    assert found["baseline", "linear-head"].head.hidden == ()
    assert len(tuned.head.hidden) == len(baseline.head.hidden) + 2
    assert tuned.head.dropout > 0
    assert tuned.finetune.freeze.stages == 0
    assert tuned.finetune.patience > 0
    assert {step.size for step in tuned.finetune.schedule} == {32} == {tuned.input_size}
    assert {step.size for step in large.finetune.schedule} == {96} == {large.input_size}
    assert large.finetune.class_weights == "balanced"
    assert large.head.hidden == ()
    lite = recipes("tf_efficientnet_lite0.in1k")
    assert lite["finetune-96", "only"].head == lite["finetune", "only"].head


def test_an_empty_variant_is_what_came_before():
    found = recipes("tf_efficientnet_lite0.in1k")
    words = {"description": ""}
    before = found["finetune-96", "only"].model_copy(update=words)
    for key in [("schedule", "cosine"), ("mix", "none"), ("weak-classes", "plain"), ("deeper", "as-before")]:
        assert found[key].model_copy(update=words) == before
    assert found["efficientnet", "lite0"].model_copy(update=words) == before
    assert found["schedule", "constant"].finetune.decay == "constant"


def test_what_is_chosen_is_carried_on_within_the_family():
    plan = load_plan(None)
    assert plan.stage("best").start_for(["resnet"]) == "deeper"
    assert plan.stage("best").start_for(["efficientnet"]) == "efficientnet"
    stage = plan.stage("best")
    chosen = recipes("tf_efficientnet_lite0.in1k")["efficientnet", "lite2"]
    best = resolve(stage, stage.variants_for(["efficientnet"])["only"], base=chosen, settings=SETTINGS)
    assert best.backbone == "tf_efficientnet_lite2.in1k"


def test_a_backbone_of_two_families_has_the_changes_of_both_the_later_family_s_last():
    plan = load_plan(None)
    assert plan.families_of("resnet50v1.keras_in1k") == ["keras-resnet", "resnet"]
    assert plan.families_of("resnet50.tv_in1k") == ["resnet"]
    assert plan.families_of("vit_base_patch16_224") == []
    tree = {"name": "one", "title": "x", "what": "y", "start": "a", "change": {"backbone": "n", "seed": 0}}
    tree["families"] = {"f": {"change": {"seed": 1, "weights": "f"}, "start": "b"}, "g": {"change": {"seed": 2}}}
    stage = Stage.model_validate(tree)
    assert stage.variants_for(["f", "g"])["only"] == {"backbone": "n", "seed": 2, "weights": "f"}
    assert (stage.start_for(["f", "g"]), stage.start_for(["g"])) == ("b", "a")


def test_the_weakest_classes_take_the_place_of_their_stand_ins():
    found = recipes("resnet50v1.keras_in1k", weakest=["cat", "bird"])
    assert found["weak-classes", "stronger"].finetune.augment.stronger == {"cat": 0.5, "bird": 0.5}
    assert load_plan(None).stage("weak-classes").weakest_needed == 2
    assert load_plan(None).stage("mix").weakest_needed == 0


def test_an_override_reaches_the_stages_that_have_its_section():
    found = recipes("resnet50v1.keras_in1k", overrides={"finetune.batch_size": 32, "weights": "none.pth"})
    assert found["baseline", "published-head"].finetune is None
    assert found["finetune", "only"].finetune.batch_size == 32
    assert {recipe.weights for recipe in found.values()} == {"none.pth"}


def test_merging_goes_into_mappings_and_replaces_everything_else():
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert merged(tree, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert merged(tree, {"a": None}) == {"a": None, "d": None}
    assert tree == {"a": {"b": 1, "c": [1, 2]}, "d": None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": []}, "stages"),
        ({"lesson": [{"what": "x", "unit": "one", "weights": "tow"}]}, "Did you mean 'two'?"),
        (
            {"sages": []},
            "sages: unknown key. Did you mean 'stages'? Allowed: description, backbone, data, limit, families, stages, "
            "lesson\nThe form of a plan is that of",
        ),
        ({"data": None}, "data: "),
        ({"stages": [{"name": "a/b", "title": "x", "what": "y"}]}, "stages.0.name"),
        ({"stages": [{"name": "one", "title": "x", "what": "y", "start": "two"}]}, "starts from 'two'"),
        ({"stages": [{"name": "one", "title": "x", "what": "y"}] * 2}, "two stages are called 'one'"),
        ({"stages": [{"name": "one", "title": "x", "what": "y", "families": {"f": {}}}]}, "names family 'f'"),
    ],
)
def test_a_wrong_plan_is_refused_with_the_cause(tmp_path, change, said):
    good = {
        "description": "x",
        "backbone": "resnet18.a1_in1k",
        "data": "animals",
        "limit": 10,
        "stages": [
            {"name": "one", "title": "x", "what": "y"},
            {"name": "two", "title": "x", "what": "y", "start": "one"},
        ],
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(good))
    assert [stage.name for stage in load_plan(path).stages] == ["one", "two"]
    path.write_text(yaml.safe_dump(good | change))
    with pytest.raises(RecipeError) as caught:
        load_plan(path)
    assert said in str(caught.value)


def test_stages_are_selected_by_name_in_the_plans_own_order():
    plan = load_plan(None)
    assert [stage.name for stage in plan.select(["finetune", "baseline"])] == ["baseline", "finetune"]
    with pytest.raises(RecipeError, match=r"no stage 'finetnue'\. Did you mean 'finetune'\?"):
        plan.select(["finetnue"])
