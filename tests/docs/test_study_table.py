"""docs/study.md says what benchmarks/results/study-*.json say, and the script that writes it can be wrong."""

import json
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).parents[2]
study_table = load_script("study_table")


def row(name, accuracy, *, seed=0, seconds=10.0, before=None, published=None):
    against = None
    if before is not None:
        change = {"value": accuracy - before, "ci95": [accuracy - before - 0.012, accuracy - before + 0.012]}
        against = {
            "stage": {"baseline": "as-published", "finetune": "baseline"}[name],
            "same_run": False,
            "verdict": "second",
            "accuracy_change": change,
            "mcnemar": {"p": 1e-9},
            "train_seconds_ratio": 4.2,
            "per_class": {
                "cat": {"f1_change": {"value": 0.3, "ci95": [0.2, 0.4]}},
                "dog": {"f1_change": {"value": 0.1, "ci95": [0.0, 0.2]}},
            },
        }
    return {
        "name": name,
        "backbone": "resnet50v1.keras_in1k",
        "limit": 10000,
        "title": {"as-published": "The mistake", "baseline": "Right preprocessing", "finetune": "Fine-tuning"}[name],
        "aside": False,
        "published": {"accuracy": published} if published else {"note": "named as a next step"},
        "seed": seed,
        "variant": None,
        "weakest": [],
        "left_out": {},
        "variants": [],
        "test": {"accuracy": accuracy},
        "val": {"accuracy": round(accuracy + 0.01, 4)},
        "seconds": seconds,
        "against": against,
        "environment": {"hardware": {"cpu": "a CPU", "device": "cpu"}, "threads": 2, "versions": {"torch": "2.9"}},
    }


STUDY = {
    "backbone": "resnet50v1.keras_in1k",
    "limit": 10000,
    "command": "headstart study cifar10 --stages finetune --resume",
    "published_with": {"backbone": "resnet50v1.keras_in1k", "limit": 10000},
    "data_argument": "cifar10",
    "plan": None,
    "overrides": {},
    "lesson": [
        {
            "what": "frozen",
            "seed": 0,
            "same_run": False,
            "accuracy_change": {"value": 0.301, "ci95": [0.289, 0.313]},
            "mcnemar": {"p": 1e-9},
            "unit": {"test_accuracy": 0.301, "stage": "as-published"},
            "weights": {"test_accuracy": 0.602},
        }
    ],
    "stages": [
        row("as-published", 0.301, published=0.3176),
        row("baseline", 0.602, before=0.301, published=0.3176),
        row("finetune", 0.7937, before=0.602, published=0.7104, seconds=480),
        row("finetune", 0.7951, seed=1, before=0.602, published=0.7104, seconds=500),
        row("finetune", 0.7999, seed=2, before=0.602, published=0.7104, seconds=490),
    ],
}


@pytest.fixture
def place(tmp_path):
    """A repository with one made-up study and a README that has a place for its table."""
    (tmp_path / "docs").mkdir()
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "study-r50.json").write_text(json.dumps(STUDY))
    (tmp_path / "README.md").write_text("# x\n<!-- study -->\nold\n<!-- /study -->\nrest\n")
    return tmp_path


def test_the_committed_page_says_what_the_files_say():
    assert study_table.main(ROOT, ["--check"]) == 0


def test_the_table_has_the_median_over_seeds(place):
    assert study_table.main(place, []) == 0
    text = (place / "docs" / "study.md").read_text()
    assert "| `finetune` | 71.04% | 79.51% (3 seeds; 8 min 10 s) |" in text
    assert "| `baseline` | 31.76% | 60.20% (1 seed; 10 s) |" in text
    assert "`finetune-96`" not in text, "a stage that was not run has no line"
    assert "Fine-tuning added 19.2 points (95% interval 18.0 to 20.4)" in text
    assert "The published study reports 71.04%; this run is 8.3 points higher." in text
    test, val = (
        "79.37% to 79.99% on test, median 79.51% (published 71.04%)",
        "80.37% to 80.99% on validation, median 80.51%",
    )
    assert [line.strip() for line in text.splitlines() if "seeds:" in line] == [f"Over 3 seeds: {test}; {val}."]
    assert "Of the 49.3 points between `as-published` and `finetune`" in text


def test_a_stage_that_changed_nothing_is_no_loss_against_the_median_above_it():
    same = row("finetune", 0.5, before=0.6) | {"against": {"same_run": True}}
    assert study_table.cell({**STUDY, "stages": [same, {**same, "seed": 1}]}, "finetune") == "*kept*"
    other = row("finetune", 0.7, before=0.6, seed=1)
    assert study_table.cell({**STUDY, "stages": [same, other]}, "finetune") == "60.00% (2 seeds; 10 s)"


def test_the_commands_make_every_row_anew_in_an_empty_folder(place):
    study_table.main(place, [])
    text = (place / "docs" / "study.md").read_text()
    assert "    headstart study cifar10 --stages as-published,baseline,finetune --out study\n" in text
    assert "    headstart study cifar10 --stages finetune --seed 1 --seed 2 --out study --resume\n" in text


def test_the_seed_with_most_stages_is_told_and_every_machine(place):
    alone, second = row("as-published", 0.3), row("as-published", 0.31, seed=1)
    alone["environment"] = alone["environment"] | {"threads": 8}
    stages = [alone, second, row("baseline", 0.6, seed=1, before=0.31)]
    text = study_table.section(place / "study-r50.json", {**STUDY, "stages": stages})
    assert "on a CPU with 8 threads, torch 2.9 and a CPU with 2 threads, torch 2.9." in text
    assert "describe seed 1" in text
    assert "**baseline**" in text


def test_a_study_of_asides_has_no_sentences(place):
    aside = {**row("as-published", 0.3), "aside": True}
    assert "- **" not in study_table.section(place / "study-r50.json", {**STUDY, "lesson": [], "stages": [aside]})


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("study-*.json")), ids=lambda p: p.stem)
def test_the_recorded_changes_are_those_of_the_recorded_figures(path):
    stages = json.loads(path.read_text())["stages"]
    for told in stages:
        against = told["against"]
        if against is None or against["same_run"]:
            continue
        (before,) = (r for r in stages if (r["name"], r["seed"]) == (against["stage"], told["seed"]))
        gain = told["test"]["accuracy"] - before["test"]["accuracy"]
        assert against["accuracy_change"]["value"] == pytest.approx(gain, abs=1e-6), told["name"]
        assert against["train_seconds_ratio"] == pytest.approx(told["seconds"] / before["seconds"], rel=1e-3)


def test_all_variants_are_told_and_which_was_chosen(place):
    variants = [
        {"name": "cosine", "val_accuracy": 0.936, "seconds": 321.4},
        {"name": "constant", "val_accuracy": 0.915, "seconds": 327},
    ]
    chosen = {**row("baseline", 0.92, before=0.9), "variant": "cosine", "variants": variants}
    text = study_table.section(place / "study-r50.json", {**STUDY, "stages": [chosen]})
    assert "Validation selected `cosine`: `cosine` 93.60% in 5 min 21 s, `constant` 91.50% in 5 min 27 s." in text


def test_a_figure_of_another_backbone_is_marked_as_such():
    tuned = {**row("finetune", 0.9), "backbone": "resnet18"}
    assert study_table.cell({**STUDY, "stages": [tuned]}, "finetune").endswith("(1 seed; 10 s; `resnet18`)")


def test_the_readme_gets_the_same_table_and_keeps_the_rest(place):
    study_table.main(place, [])
    readme = (place / "README.md").read_text()
    assert readme.startswith("# x\n<!-- study -->\n| stage |")
    assert readme.endswith("<!-- /study -->\nrest\n")
    assert "old" not in readme
    assert study_table.table([STUDY]) in readme
    assert study_table.table([STUDY]) in (place / "docs" / "study.md").read_text()


def test_a_page_that_disagrees_is_noticed(place, capsys):
    assert study_table.main(place, ["--check"]) == 1
    study_table.main(place, [])
    assert study_table.main(place, ["--check"]) == 0
    page = place / "docs" / "study.md"
    page.write_text(page.read_text().replace("79.51", "80.51"))
    assert study_table.main(place, ["--check"]) == 1
    assert "docs/study.md does not say what the files say" in capsys.readouterr().out
