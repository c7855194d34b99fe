"""The page of a study says what study.json says, in sentences that follow from its numbers."""

import json
from html.parser import HTMLParser

import pytest

from headstart.errors import RunError
from headstart.studies.changes import compare_with_before, tell_lesson
from headstart.studies.ledger import Ledger
from headstart.studies.page import write_study_page
from headstart.studies.plan import ONLY, Lesson, Plan, Stage
from headstart.studies.rows import read_variant, stage_row, weakest_classes
from headstart.studies.words import (
    interval,
    lesson_sentences,
    published_sentence,
    stage_sentence,
    variants_sentence,
    weak_class_sentences,
)
from headstart.wording import percent

STAGES = [
    Stage(name="as-published", title="The mistake", what="fed RGB/255", published={"accuracy": 0.3176}),
    Stage(name="baseline", title="Right preprocessing", what="fed as the weights want"),
    Stage(name="finetune", title="Fine-tuning", what="all trainable", published={"accuracy": 0.7104}),
    Stage(name="deeper", title="Unfreezing", what="more or less", variants={f"v{i}": {} for i in range(4)}),
    Stage(name="schedule", title="The schedule", what="another rate", variants={"cosine": {}, "constant": {}}),
]
PLAN = Plan(
    description="A study.",
    backbone="resnet18.a1_in1k",
    data="animals",
    limit=180,
    stages=STAGES,
    lesson=[Lesson(what="frozen", unit="as-published", weights="baseline")],
)
STRENGTHS = {"as-published": 0.2, "baseline": 0.5, "finetune": 1.4, "deeper": 1.4}
HEADER = {
    "description": "A study.",
    "data": "animals",
    "backbone": "resnet18.a1_in1k",
    "limit": 180,
    "n_train_and_val": 240,
    "n_test": 240,
    "classes": ["cat", "dog", "bird", "frog"],
    "command": "headstart study animals",
    "published_with": {"backbone": "resnet18.a1_in1k", "limit": 180},
    "data_argument": "animals",
    "plan": None,
    "overrides": {},
}


@pytest.fixture
def ledger(make_evaluated_run, tmp_path):
    """A study of five stages; in the last, validation kept what the third had found."""
    ledger = Ledger(tmp_path, HEADER, [stage.name for stage in STAGES])
    for number, (name, strength) in enumerate(STRENGTHS.items()):
        run = make_evaluated_run(strength=strength, name=name).path
        metrics = json.loads((run / "metrics.json").read_text())
        (run / "validation.json").write_text(json.dumps(metrics["val"]))
        keys = ("train_images_per_second", "backbone", "device", "precision", "seed", "peak_rss_mb", "best_epoch")
        facts = {key: metrics[key] for key in keys} | {"train_seconds": 10.0 * (number + 1)}
        (run / "training.json").write_text(json.dumps(facts))
        (run / "metrics.json").write_text(json.dumps(metrics | {"train_seconds": 10.0 * (number + 1)}))
    for stage in STAGES:
        own = tmp_path / (stage.name if stage.name in STRENGTHS else "deeper")
        runs = [read_variant(name, own, reused=own.name != stage.name) for name in stage.variants or [ONLY]]
        weakest = ["cat"] if stage.name == "schedule" else []
        missing = {"b3": "the Hub can't be reached"} if stage.name == "deeper" else {}
        ledger.put(stage_row(stage, 0, runs[0], runs, folder=tmp_path, missing=missing, weakest=weakest))
    compare_with_before(ledger, 0, PLAN, [])
    tell_lesson(ledger, 0, PLAN)
    ledger.write()
    return ledger


class Reader(HTMLParser):
    """Collects text, identifiers and what would be fetched."""

    def __init__(self):
        super().__init__()
        self.text, self.ids, self.fetched, self.open = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.fetched += [attributes["src"]] if "src" in attributes else []
        assert tag != "script"

    def handle_data(self, data):
        self.text.append(data)


def read(folder):
    reader = Reader()
    reader.feed(write_study_page(folder).read_text(encoding="utf-8"))
    return reader, " ".join(" ".join(reader.text).split())


def test_the_page_has_each_stage_with_its_figures_and_fetches_nothing(ledger, tmp_path):
    reader, text = read(tmp_path)
    assert len(reader.ids) == len(set(reader.ids)), "every chart has its own identifiers"
    assert reader.fetched == []
    for row in ledger.rows:
        assert row["name"] in reader.ids
        assert percent(row["test"]["accuracy"]) in text
        assert " ".join(stage_sentence(row).split()) in text
    assert "left out: the Hub can't be reached" in text
    assert "deeper-cost-title" in reader.ids, "four variants make a curve of accuracy against cost"
    assert "schedule-cost-title" not in reader.ids


def test_the_headline_of_several_seeds_gives_their_median(ledger, tmp_path):
    assert "the median of" not in read(tmp_path)[1]
    best = max(ledger.rows, key=lambda row: row["val"]["accuracy"])
    others = [{**best, "seed": seed, "test": {**best["test"], "accuracy": 0.1 * seed}} for seed in (1, 2)]
    ledger.rows += others
    ledger.write()
    assert "with seed 0; the median of 3 seeds is 20.00%" in read(tmp_path)[1]


def test_the_lesson_is_told_in_the_order_of_the_plan(ledger):
    second = Lesson(what="fine-tuned", unit="baseline", weights="finetune")
    both = PLAN.model_copy(update={"lesson": [*PLAN.lesson, second]})
    tell_lesson(ledger, 0, both)
    del ledger.lesson[0]
    tell_lesson(ledger, 0, both)
    assert [pair["what"] for pair in ledger.lesson] == ["frozen", "fine-tuned"]


def test_the_page_says_whether_validation_chose_a_variant_or_kept_what_was_there(ledger, tmp_path):
    row = next(row for row in ledger.rows if len(row["variants"]) > 1)
    assert f"Validation selected {row['variant']}" in read(tmp_path)[1]
    for variant in row["variants"]:
        variant["val_accuracy"] = 0.914 if variant["name"] == row["variant"] else 0.915
    ledger.write()
    text = read(tmp_path)[1]
    assert f"No variant beat {row['variant']} by more than one standard error" in text


def test_the_paired_differences_are_those_of_the_runs(ledger, tmp_path):
    first, second = ledger.rows[0], ledger.rows[1]
    against = second["against"]
    gain = second["test"]["accuracy"] - first["test"]["accuracy"]
    assert against["accuracy_change"]["value"] == pytest.approx(gain, abs=1e-6)
    assert against["mcnemar"]["second_only"] - against["mcnemar"]["first_only"] == round(gain * 240)
    assert second["against"]["train_seconds_ratio"] == pytest.approx(2)
    assert first["against"] is None
    assert ledger.rows[-1]["against"]["same_run"] is True
    assert ledger.lesson[0]["accuracy_change"] == against["accuracy_change"]


def test_a_stage_added_in_between_is_named_though_it_kept_the_run(ledger):
    row = ledger.rows[1]
    row["against"]["stage"] = "what-came-before-that"
    figures = row["against"]["accuracy_change"]
    compare_with_before(ledger, 0, PLAN, [])
    assert row["against"]["stage"] == ledger.rows[0]["name"]
    assert row["against"]["accuracy_change"] is figures, "the runs are the same, so they are not compared again"


def test_other_seeds_stand_beside_the_first(ledger, tmp_path):
    for row in [row | {"seed": 1} for row in ledger.rows]:
        accuracy = row["test"]["accuracy"] + 0.01
        ledger.put(row | {"test": row["test"] | {"accuracy": accuracy}})
    ledger.write()
    _, text = read(tmp_path)
    first = ledger.row("baseline", 0)["test"]["accuracy"]
    span = f"{percent(first)} to {percent(first + 0.01)}"
    assert f"Over 2 seeds: {span} on test, median {percent(first + 0.005)}" in text


def test_a_stage_that_failed_is_named_and_an_empty_study_has_a_page_too(ledger, tmp_path):
    ledger.failed = {"stage": "mix", "seed": 0, "error": "The loss is nan."}
    ledger.write()
    _, text = read(tmp_path)
    assert "Stage mix failed: The loss is nan." in text
    ledger.rows, ledger.lesson = [], []
    ledger.write()
    assert "No stage is finished yet." in read(tmp_path)[1]


def test_a_damaged_study_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(RunError, match=r"study\.json can't be read: .*--resume"):
        write_study_page(tmp_path)
    (tmp_path / "study.json").write_text('{"stages": []}')
    with pytest.raises(RunError, match="lacks backbone, data, lesson"):
        write_study_page(tmp_path)


def against(value, low, high, *, verdict="second", ratio=4.2, p=1e-9):
    change = {"value": value, "ci95": [low, high]}
    classes = {
        "cat": {"f1_change": change},
        "dog": {"f1_change": {"value": value / 2, "ci95": [0, 0]}},
        "owl": {"f1_change": None},
    }
    return {
        "same_run": False,
        "verdict": verdict,
        "accuracy_change": change,
        "mcnemar": {"p": p},
        "train_seconds_ratio": ratio,
        "per_class": classes,
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            against(0.231, 0.219, 0.243),
            ["X added 23.1 points", "21.9 to 24.3", "in 4.2 times the training time", '"cat" improved most'],
        ),
        (against(-0.02, -0.03, -0.01), ["X cost 2.0 points", "(95% interval 1.0 to 3.0)", '"cat" lost most']),
        (against(0.1, 0.05, 0.2, ratio=1.03), ["in the same training time"]),
        (against(0.1, 0.05, 0.2, ratio=0.46), ["in 46% of the training time"]),
        (against(0.1, 0.05, 0.2, ratio=23.4), ["in 23 times the training time"]),
        (against(0.002, -0.004, 0.008, verdict="noise", p=0.31, ratio=1), ["can't tell", "-0.4 to +0.8", "p = 0.31"]),
        ({"same_run": True}, ["nothing changes"]),
    ],
)
def test_a_sentence_follows_from_the_numbers(found, said):
    told = stage_sentence({"title": "X", "against": found})
    assert [words for words in said if words not in told] == []


def test_a_sentence_without_a_known_cost_has_none():
    assert "time" not in stage_sentence({"title": "X", "against": against(0.1, 0.05, 0.2, ratio=None)})


def test_a_gain_is_not_credited_to_fine_tuning_that_was_discarded():
    row = {"title": "Higher resolution", "against": against(0.318, 0.30, 0.33)}
    finetuned = row | {"train_images_per_second": 120.0, "best_epoch": 0}
    told = stage_sentence(finetuned)
    assert "not kept" in told
    assert "+31.8 points" in told
    assert "Higher resolution added" not in told
    for kept in (row, finetuned | {"best_epoch": 3}, finetuned | {"train_images_per_second": 0.0}):
        assert "Higher resolution added 31.8 points" in stage_sentence(kept)


def test_the_curves_of_discarded_fine_tuning_are_not_drawn(ledger, tmp_path):
    row = ledger.rows[2]
    row |= {"train_images_per_second": 120.0, "best_epoch": 3}
    ledger.write()
    assert f"{row['name']}-accuracy-title" in read(tmp_path)[0].ids
    row["best_epoch"] = 0
    ledger.write()
    reader, text = read(tmp_path)
    assert f"{row['name']}-accuracy-title" not in reader.ids
    assert "Fine-tuning was not kept" in text
    assert "Epochs of the discarded fine-tuning" in text


def test_an_interval_has_signs_unless_it_is_a_clear_gain():
    assert interval({"ci95": [0.01, 0.03]}) == "1.0 to 3.0"
    assert interval({"ci95": [-0.03, -0.01]}) == "-3.0 to -1.0"
    assert interval({"ci95": [-0.03, 0.01]}) == "-3.0 to +1.0"


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"accuracy": 0.7104}, "reports 71.04%; this run is 9.0 points higher."),
        ({"accuracy": 0.82}, "reports 82.00%; this run is 2.0 points lower."),
        ({"accuracy": 0.8001}, "; this run is the same."),
        ({"accuracy": 0.8, "differs": "AdamW"}, "; this run is the same. What differs here: AdamW."),
        ({"note": "named as a next step"}, "gives no figure (named as a next step)."),
    ],
)
def test_the_published_figure_stands_beside_ours(published, said):
    assert published_sentence({"published": published, "test": {"accuracy": 0.8}}, {}).endswith(said)


def test_a_published_validation_figure_is_held_against_validation():
    row = {"published": {"accuracy": 0.3176, "val_accuracy": 0.306}, "test": {"accuracy": 0.3307}}
    on_test, on_validation = published_sentence(row | {"val": {"accuracy": 0.316}}, {}).split(" On validation ")
    assert on_test.endswith("1.3 points higher.")
    for words in ("30.60%", "31.60%", "1.0 points higher"):
        assert words in on_validation


def test_a_published_figure_of_another_network_or_other_images_is_called_that():
    row = {"published": {"accuracy": 0.3}, "test": {"accuracy": 0.8}, "backbone": "lite0", "limit": 500}
    with_ = {"backbone": "resnet50", "limit": 10_000}
    told = published_sentence(row, {"published_with": with_})
    assert "30.00% with resnet50 on 10,000 images; this run is" in told
    for own in ("resnet50", "resnet50.tv_in1k"):
        assert " with " not in published_sentence(row | with_ | {"backbone": own}, {"published_with": with_})


@pytest.mark.parametrize(
    ("chosen", "same_run", "said"),
    [
        ("plain", True, "On validation: "),
        ("plain", False, "No variant beat `plain` by more than one standard error on validation, so it was kept: "),
        ("mixup", True, "On validation: "),
        ("mixup", False, "Validation selected `mixup`: "),
    ],
)
def test_a_variant_that_was_kept_though_another_is_ahead_is_called_kept(chosen, same_run, said):
    variants = [
        {"name": "plain", "val_accuracy": 0.915, "seconds": 58.0},
        {"name": "mixup", "val_accuracy": 0.916, "seconds": 231.0},
    ]
    told = f"{said}`plain` 91.50% in 58 s, `mixup` 91.60% in 3 min 51 s."
    row = {"title": "X", "variant": chosen, "variants": variants, "left_out": {}, "against": {"same_run": same_run}}
    assert variants_sentence(row) == told
    if same_run:
        assert f"`{chosen}`" in stage_sentence(row)
        assert ("standard error" in stage_sentence(row)) is (chosen == "plain")
    for why in ("no weights", "no weights."):
        without = variants_sentence(row | {"left_out": {"cutmix": why}})
        assert without == f"{told} `cutmix` was left out: no weights."


def test_the_lesson_is_told_with_the_numbers():
    def pair(what, unit, weights):
        change = {"value": weights - unit, "ci95": [weights - unit - 0.01, weights - unit + 0.01]}
        sides = {"unit": {"test_accuracy": unit, "stage": f"{what}-unit"}, "weights": {"test_accuracy": weights}}
        return {"what": what, "seed": 0, "same_run": False, "accuracy_change": change, "mcnemar": {"p": 1e-9}, **sides}

    accuracies = {"as-published": 0.30, "baseline": 0.60, "finetune": 0.80}
    common = {"seed": 0, "aside": False, "published": {}}
    stages = [common | {"name": name, "test": {"accuracy": value}} for name, value in accuracies.items()]
    stages.append(common | {"name": "fine-tuned-unit", "aside": True, "test": {"accuracy": 0.78}})
    study = {"lesson": [pair("frozen", 0.30, 0.60), pair("fine-tuned", 0.78, 0.80)], "stages": stages}
    told = lesson_sentences(study, 0)
    for sentence, words in zip(
        told,
        [
            ("Frozen: ", "30.00%", "60.00%", "+30.0 points", "29.0 to 31.0", "p < 0.001"),
            ("Fine-tuned: ", "78.00%", "80.00%", "+2.0 points", "1.0 to 3.0", "p < 0.001"),
            ("30.0 points with the network frozen", "2.0 points with the network fine-tuned"),
            ("50.0 points", "`as-published`", "`finetune`", "30.0 points come"),
        ],
        strict=True,
    ):
        assert [word for word in words if word not in sentence] == []
    stages[-1]["published"] = {"accuracy": 0.71, "differs": "batch norm"}
    second = lesson_sentences(study, 0)[1]
    assert second.startswith(told[1])
    for words in ("published study", "71.00%", "78.00%", "7.0 points higher", "What differs here: batch norm."):
        assert words in second
    study["lesson"][1] = pair("fine-tuned", 0.5, 0.79)
    assert len(lesson_sentences(study, 0)) == 3, "nothing is said to make up for it where nothing does"


def test_weak_classes_are_told_before_and_after(ledger):
    told = weak_class_sentences(ledger.rows[-1])
    score = ledger.rows[-1]["val"]["per_class"]["cat"]["f1-score"]
    assert '"cat"' in told[0]
    assert f"`cosine` {percent(score)}" in told[1]
    assert weak_class_sentences(ledger.rows[0]) == []


def test_the_weakest_classes_are_those_with_the_lowest_f1_that_can_be_judged():
    scores = {"cat": (0.4, 5), "dog": (0.3, 5), "bird": (0.9, 5), "owl": (0.0, 0)}
    per_class = {name: {"f1-score": f1, "support": support} for name, (f1, support) in scores.items()}
    assert weakest_classes(per_class, 2) == ["dog", "cat"]
    assert weakest_classes(per_class, 4)[-1] == "owl"
