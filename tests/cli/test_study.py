"""A whole study on real pictures with a tiny network: stages, choice by validation, resuming, failing, bad input."""

import json
import shutil
import signal
import time
from unittest import mock

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

import headstart
import warm
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.data.arrays import Arrays
from headstart.data.sources.arrays import write_store
from headstart.errors import InputError, StoppedError, WeightsError
from headstart.models.architectures import create_network

BACKBONE = "test_efficientnet.r160_in1k"
PROBE = {"solver": "adam", "size": 32, "epochs": 3}
TUNE = {"schedule": [{"epochs": 1, "size": 32}], "batch_size": 32}
PLAN = {
    "description": "A study of a tiny network.",
    "backbone": BACKBONE,
    "data": "cifar10-sample",
    "limit": 300,
    "families": {"tiny": ["test_*"]},
    "stages": [
        {
            "name": "as-published",
            "title": "The mistake",
            "what": "frozen, fed RGB/255",
            "published": {"accuracy": 0.3176},
            "change": {
                "preprocessing": "unit",
                "head": {"hidden": [16]},
                "probe": PROBE,
                "finetune": None,
                "evaluation": {"size": 32, "flip": False},
                "hardware": {"precision": "fp32", "memory_format": "contiguous", "checkpoint_minutes": 1.0e-9},
            },
        },
        {
            "name": "baseline",
            "title": "The baseline put right",
            "what": "the same, fed what the weights want",
            "start": "as-published",
            "change": {"preprocessing": "weights"},
        },
        {
            "name": "finetune",
            "title": "Fine-tuning",
            "what": "all trainable",
            "start": "baseline",
            "change": {"head": {"hidden": [16, 16], "dropout": 0.1}, "finetune": TUNE},
        },
        {
            "name": "weak-classes",
            "title": "More augmentation for the weakest classes",
            "what": "more for two classes",
            "start": "finetune",
            "variants": {
                "plain": {},
                "stronger": {"finetune": {"augment": {"stronger": {"$weakest1": 0.5, "$weakest2": 0.9}}}},
                # It can't win: the first has begun from it, and keeps it where no epoch is better.
                "untuned": {"finetune": None},
            },
        },
    ],
    "lesson": [{"what": "frozen", "unit": "as-published", "weights": "baseline"}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights for the tiny network and a cache of its own."""
    folder = tmp_path_factory.mktemp("study")
    network = create_network("test_efficientnet", num_classes=10, seed=1)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_HOME", str(folder / "home"))
        yield folder


def write_plan(folder, plan=PLAN):
    path = folder / f"plan-{abs(hash(str(plan)))}.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def words(place, sample_dir, out, *more, plan=PLAN, limit=300):
    base = ["study", str(sample_dir), "--plan", str(write_plan(place, plan)), "--out", str(out), "--threads", "1"]
    limits = ["--limit", str(limit)] if limit else []
    return [*base, *limits, "--set", f"weights={place / 'w.safetensors'}", "--quiet", "--json", *more]


def finished(out):
    return [row["name"] for row in json.loads((out / "study.json").read_text())["stages"]]


@pytest.fixture(scope="module")
def whole(place, sample_dir):
    out = place / "whole"
    assert main(words(place, sample_dir, out)) == 0
    return out, json.loads((out / "study.json").read_text())


def test_each_stage_is_an_ordinary_run_whose_test_split_was_opened_once(whole):
    out, study = whole
    assert finished(out) == ["as-published", "baseline", "finetune", "weak-classes"]
    for row in study["stages"]:
        run = out / row["run"]
        assert {"recipe.yaml", "metrics.json", "report.html", "model"} <= {path.name for path in run.iterdir()}
        metrics = json.loads((run / "metrics.json").read_text())
        assert row["test"]["accuracy"] == metrics["test"]["accuracy"]
        assert row["test_openings"] == 1
        assert (row["seed"], row["limit"], row["backbone"]) == (0, 300, BACKBONE)
        assert row["seconds"] > 0
    assert not list(out.rglob("checkpoints/*")), "nothing goes on from a finished run"
    head_alone = (out / "seed-0/baseline/history.csv").read_text().splitlines()
    assert len(head_alone) == 1 + PROBE["epochs"], "the head's epochs are recorded as well"


def test_validation_chooses_and_the_others_never_see_the_test_split(whole):
    out, study = whole
    row = study["stages"][-1]
    plain, stronger, untuned = row["variants"]
    best = max(row["variants"], key=lambda v: (v["val_accuracy"], -v["val_nll"]))
    share, n = best["val_accuracy"], row["val"]["n"]
    better = best if share - plain["val_accuracy"] > (share * (1 - share) / n) ** 0.5 else plain
    assert row["variant"] == better["name"]
    assert (plain["run"], plain["reused"]) == ("seed-0/finetune", True), "the same recipe is not trained twice"
    assert (out / stronger["run"] / "validation.json").is_file()
    assert better["name"] != "untuned"
    assert not (out / untuned["run"] / "metrics.json").exists()
    assert json.loads((out / untuned["run"] / "environment.json").read_text())["test_openings"] == []
    assert row["against"]["same_run"] is (better is plain)


def test_the_weakest_classes_of_the_stage_before_are_strengthened(whole):
    out, study = whole
    row, before = study["stages"][-1], study["stages"][-2]
    scores = {name: figures["f1-score"] for name, figures in before["val"]["per_class"].items()}
    assert len(row["weakest"]) == 2
    assert max(scores[name] for name in row["weakest"]) <= min(v for n, v in scores.items() if n not in row["weakest"])
    recipe = yaml.safe_load((out / row["variants"][1]["run"] / "recipe.yaml").read_text())
    assert recipe["finetune"]["augment"]["stronger"] == dict(zip(row["weakest"], [0.5, 0.9], strict=True))


def test_preprocessing_is_the_only_difference_and_travels_with_the_model(whole):
    out, study = whole
    configs = [json.loads((out / f"seed-0/{n}/model/config.json").read_text()) for n in ("as-published", "baseline")]
    assert configs[0]["pretrained_cfg"]["mean"] == [0, 0, 0]
    assert configs[0]["pretrained_cfg"]["std"] == [1, 1, 1]
    assert configs[1]["pretrained_cfg"]["mean"] != [0, 0, 0]
    (lesson,) = study["lesson"]
    by_name = {row["name"]: row["test"]["accuracy"] for row in study["stages"]}
    assert lesson["unit"]["test_accuracy"] == by_name["as-published"]
    change = by_name["baseline"] - by_name["as-published"]
    assert lesson["accuracy_change"]["value"] == pytest.approx(change, abs=1e-6)


def test_the_page_tells_it(whole):
    out, study = whole
    page = (out / "study.html").read_text()
    for row in study["stages"]:
        assert f'<h2 id="{row["name"]}">' in page
        assert f"{100 * row['test']['accuracy']:.2f}%" in page
    assert "The effect of preprocessing" in page
    assert "The published study reports 31.76%" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_finished_study_is_recognised_and_nothing_is_trained_again(whole, place, sample_dir):
    out, study = whole
    assert main(words(place, sample_dir, out)) == 2, "without --resume a study is never written over"
    with mock.patch("headstart.api.train", side_effect=AssertionError("trained again")):
        assert main(words(place, sample_dir, out, "--resume")) == 0
    again = json.loads((out / "study.json").read_text())
    assert [row["test"] for row in again["stages"]] == [row["test"] for row in study["stages"]]


def test_weights_that_will_be_fetched_are_announced_before(place, sample_dir, tmp_path, capsys):
    for name, overrides in (("auto", {}), ("own", {"weights": str(place / "w.safetensors")})):
        with mock.patch("headstart.studies.api.run_stages"):
            headstart.study(sample_dir, stages=["baseline"], overrides=overrides, out=tmp_path / name)
        said = " ".join(capsys.readouterr().err.split())
        assert ("resnet50v1.keras_in1k are not on this machine: fetched once" in said) is (name == "auto")
        assert ("95 MB" in said) is (name == "auto")


def test_the_same_data_by_another_name_are_the_same_data(whole, place, sample_dir):
    copy = place / "by-another-name"
    shutil.copytree(whole[0], copy)
    other = sample_dir / ".." / sample_dir.name
    assert str(other) != str(sample_dir)
    with mock.patch("headstart.api.train", side_effect=AssertionError("trained again")):
        assert main(words(place, other, copy, "--resume")) == 0


def test_a_stage_that_is_half_trained_on_other_data_is_refused(place, sample_dir, sample, sample_arrays, capsys):
    out = place / "half-trained-on-other-data"
    with mock.patch("headstart.workflows.train.fit", side_effect=StoppedError("stopped")):
        assert main(words(place, sample_dir, out, "--stages", "as-published")) == 130
    other, own = place / "mirrored", sample_arrays
    mirrored = Arrays(own.train_images[:, :, ::-1], own.train_labels, own.test_images, own.test_labels)
    write_store(other, mirrored, name="mirrored", class_names=sample.class_names, source="a test")
    assert main(words(place, other, out, "--stages", "as-published", "--resume")) == 2
    assert "data.name" in capsys.readouterr().err


def test_going_on_with_a_study_that_is_not_there_is_refused(place, sample_dir, capsys):
    assert main(words(place, sample_dir, place / "nowhere", "--resume")) == 2
    assert "holds no study to go on with" in json.loads(capsys.readouterr().out)["error"]
    assert not (place / "nowhere").exists()


def test_finished_runs_are_recognised_without_the_ledger(whole, place, sample_dir):
    out, study = whole
    copy = place / "without-ledger"
    shutil.copytree(out, copy)
    (copy / "study.json").unlink()
    assert main(words(place, sample_dir, copy)) == 2, "runs are not written over"
    with mock.patch("headstart.api.train", side_effect=AssertionError("trained again")):
        assert main(words(place, sample_dir, copy, "--resume")) == 0
    again = json.loads((copy / "study.json").read_text())
    assert [row["test"] for row in again["stages"]] == [row["test"] for row in study["stages"]]


def test_another_recipe_for_a_finished_stage_is_refused_with_the_key(whole, place, sample_dir, capsys):
    out, _ = whole
    copy = place / "copy"
    shutil.copytree(out, copy)
    assert main(words(place, sample_dir, copy, "--resume", "--set", "probe.lr=0.01")) == 2
    message = json.loads(capsys.readouterr().out)["error"]
    assert "'probe.lr': 0.01} is asked for. Give --set as it was" in message
    assert len(finished(copy)) == 4
    assert json.loads((copy / "study.json").read_text())["failed"] is None, "a finished stage has not failed"
    assert main(words(place, sample_dir, copy, "--resume", limit=200)) == 2
    assert "limit 300, and now 200" in capsys.readouterr().err


def test_a_plan_that_has_changed_meanwhile_is_refused_with_the_key(whole, place, sample_dir, capsys):
    out, study = whole
    copy = place / "replanned"
    shutil.copytree(out, copy)
    changed = json.loads(json.dumps(PLAN))
    changed["stages"][0]["change"]["probe"]["epochs"] = 4
    (copy / "study.json").write_text(json.dumps(study | {"plan": str(write_plan(place, changed))}))
    assert main(words(place, sample_dir, copy, "--resume", plan=changed)) == 2
    told = capsys.readouterr().err
    assert "Stage 'as-published' is finished in" in told
    assert "probe.epochs is 3 there and 4 here" in told
    fewer = PLAN | {"stages": PLAN["stages"][:3]}
    (copy / "study.json").write_text(json.dumps(study | {"plan": str(write_plan(place, fewer))}))
    assert main(words(place, sample_dir, copy, "--resume", plan=fewer)) == 2
    assert "has a stage 'weak-classes', which the plan has not" in capsys.readouterr().err


def test_runs_on_data_that_have_changed_meanwhile_are_not_recognised(whole, place, sample_dir, capsys):
    out, _ = whole
    copy = place / "other-runs"
    shutil.copytree(out, copy)
    (copy / "study.json").unlink()
    environment = copy / "seed-0" / "baseline" / "environment.json"
    begun = json.loads(environment.read_text())
    environment.write_text(json.dumps(begun | {"data": begun["data"] | {"sha256": "0" * 64}}))
    assert main(words(place, sample_dir, copy, "--resume")) == 2
    assert "other images or labels than cifar10-sample" in capsys.readouterr().err
    assert finished(copy) == ["as-published"]


def test_words_of_the_plan_may_change_while_a_stage_is_half_trained(place, sample_dir):
    out = place / "reworded"
    with mock.patch("headstart.workflows.train.fit", side_effect=StoppedError("stopped")):
        assert main(words(place, sample_dir, out, "--stages", "as-published")) == 130
    recipe = out / "seed-0" / "as-published" / "recipe.yaml"
    begun = recipe.read_text()
    recipe.write_text(begun.replace("frozen, fed RGB/255", "in other words"))
    assert recipe.read_text() != begun
    assert main(words(place, sample_dir, out, "--stages", "as-published", "--resume")) == 0
    assert finished(out) == ["as-published"]


def test_what_was_published_of_other_images_is_not_held_against_these(place, sample_dir):
    out = place / "elsewhere"
    plan = PLAN | {"data": "cifar10"}
    assert main(words(place, sample_dir, out, "--stages", "as-published", plan=plan)) == 0
    assert json.loads((out / "study.json").read_text())["stages"][0]["published"] == {}
    assert "ublished study" not in (out / "study.html").read_text()


def test_a_first_stage_that_is_refused_leaves_nothing(place, sample_dir, capsys):
    out = place / "refused"
    with mock.patch("headstart.workflows.train.prepare", side_effect=WeightsError("The Hub can't be reached.")):
        assert main(words(place, sample_dir, out)) == 2
    assert capsys.readouterr().err.strip().endswith("Stage 'as-published': The Hub can't be reached.")
    assert not out.exists()


def test_data_that_has_changed_meanwhile_is_refused(whole, place, sample_dir, capsys):
    out, study = whole
    copy = place / "other-data"
    shutil.copytree(out, copy)
    (copy / "study.json").write_text(json.dumps(study | {"data_sha256": "0" * 64}))
    assert main(words(place, sample_dir, copy, "--resume")) == 2
    assert "has data_sha256 '000" in capsys.readouterr().err


def test_a_run_that_was_removed_is_made_again(whole, place, sample_dir):
    out, study = whole
    copy = place / "with-a-gap"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "seed-0" / "baseline")
    for row in study["stages"]:
        if row["against"] and not row["against"]["same_run"]:
            row["against"]["accuracy_change"]["value"] = 0.5  # of the run that is no longer there
    (copy / "study.json").write_text(json.dumps(study))
    assert main(words(place, sample_dir, copy, "--resume")) == 0
    again = json.loads((copy / "study.json").read_text())
    assert [row["test"] for row in again["stages"]] == [row["test"] for row in study["stages"]]
    first, baseline, tuned = again["stages"][:3]
    for before, row in ((first, baseline), (baseline, tuned)):
        gain = row["test"]["accuracy"] - before["test"]["accuracy"]
        assert row["against"]["accuracy_change"]["value"] == pytest.approx(gain, abs=1e-6), "compared with the new run"
    assert len(again["lesson"]) == len(study["lesson"]) == 1


def test_a_stage_that_lacks_a_variant_is_made_whole_again(place, sample_dir):
    epochs = {"one": {"probe": {"epochs": 1}}, "two": {"probe": {"epochs": 2}}}
    stage = {"name": "epochs", "title": "Epochs", "what": "how many", "start": "as-published", "variants": epochs}
    plan = {**PLAN, "stages": [PLAN["stages"][0], stage], "lesson": []}
    out = place / "without-a-variant"
    assert main(words(place, sample_dir, out, plan=plan)) == 0
    study = json.loads((out / "study.json").read_text())
    last = study["stages"][-1]
    gone = next(v["run"] for v in last["variants"] if v["run"] != last["run"])
    shutil.rmtree(out / gone)
    assert main(words(place, sample_dir, out, "--resume", "--stages", "as-published", plan=plan)) == 0
    assert finished(out) == ["as-published", "epochs"], "what validation chose is known as long as its run is there"
    assert main(words(place, sample_dir, out, "--resume", plan=plan)) == 0
    assert (out / gone / "validation.json").is_file()
    again = json.loads((out / "study.json").read_text())
    assert [row["test"] for row in again["stages"]] == [row["test"] for row in study["stages"]]


def test_a_killed_study_goes_on_and_ends_as_if_it_never_had_been(whole, place, sample_dir):
    unbroken, study = whole
    out = place / "killed"
    arguments = words(place, sample_dir, out)
    process = warm.headstart(*arguments)
    checkpoints = out / "seed-0" / "finetune" / "checkpoints"
    while process.is_alive() and not any(checkpoints.glob("step-*.safetensors")):
        time.sleep(0.01)
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL, "it came to its end before it could be killed"
    assert finished(out) == ["as-published", "baseline"]
    kept = (out / "seed-0/baseline/model/model.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert (out / "seed-0/baseline/model/model.safetensors").stat().st_mtime_ns == kept
    weights = [path / "seed-0/finetune/model/model.safetensors" for path in (unbroken, out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    again = json.loads((out / "study.json").read_text())["stages"]
    assert [row["test"] for row in again] == [row["test"] for row in study["stages"]]


def test_a_stage_that_fails_is_named_and_leaves_the_finished_ones(place, sample_dir, capsys):
    broken = json.loads(json.dumps(PLAN))
    broken["stages"][2]["change"]["finetune"] = TUNE | {"lr": 1000, "clip_norm": 0, "warmup": 0}
    out = place / "broken"
    assert main(words(place, sample_dir, out, plan=broken)) == 1
    message = json.loads(capsys.readouterr().out)["error"]
    assert message.startswith("Stage 'finetune' failed: The loss is")
    assert "Finished, and kept in" in message
    assert "as-published, baseline" in message
    assert message.endswith("--resume")
    assert finished(out) == ["as-published", "baseline"]
    assert "Stage finetune failed" in (out / "study.html").read_text()
    assert json.loads((out / "study.json").read_text())["failed"]["stage"] == "finetune"


def store(folder, arrays, names, per_class):
    """Write a data set with so many training images of each class."""
    labels = arrays.train_labels
    rows = np.concatenate([np.flatnonzero(labels == i)[: per_class[i]] for i in range(len(names))])
    tested = arrays.test_labels < len(names)
    few = Arrays(arrays.train_images[rows], labels[rows], arrays.test_images[tested], arrays.test_labels[tested])
    write_store(folder, few, name="few", class_names=names, source="a test")
    return folder


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=5", "--set seed: in a study that is decided by --seed"),
        ("data.limit=20", "decided by --limit. Give that instead"),
        ("data.name=x", "decided by DATA. Give that instead"),
        ("description=x", "decided by the stages"),
        ("preprocessing=unit", "decided by the stages, which are about it"),
        ("backbone=resnet18", "decided by --backbone"),
        ("finetune.lrr=1", "--set finetune.lrr: no stage that is asked for has that section"),
        ("probe.lrr=1", "Stage 'as-published': Recipe"),
    ],
)
def test_an_override_that_would_falsify_the_record_or_do_nothing_is_refused(place, sample_dir, capsys, override, told):
    out = place / "overridden"
    assert main(words(place, sample_dir, out, "--stages", "as-published,baseline", "--set", override)) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seeds": 1}, "seeds must be a list"),
        ({"seeds": [1, 1]}, "seeds must be a list"),
        ({"stages": "baseline"}, "stages must be a list"),
        ({"stages": []}, "stages must be a list"),
        ({"overrides": {"seed": 1}}, "decided by --seed"),
    ],
)
def test_python_gets_the_same_answers(sample_dir, tmp_path, given, told):
    with pytest.raises(InputError, match=told):
        headstart.study(sample_dir, out=tmp_path / "study", **given)


def test_a_study_that_is_stopped_in_python_says_how_python_goes_on(place, sample_dir):
    given = {"plan": write_plan(place, PLAN), "out": place / "stopped-in-python", "stages": ["as-published"]}
    given |= {"overrides": {"weights": str(place / "w.safetensors")}, "progress": False}
    stopped = mock.patch("headstart.workflows.train.fit", side_effect=StoppedError("stopped"))
    with stopped, pytest.raises(StoppedError, match=r"Go on with: headstart\.study\(\.\.\., resume=True\)"):
        headstart.study(sample_dir, **given)
    assert headstart.study(sample_dir, **given, resume=True)["stages"]


def test_images_without_a_test_split_are_refused(place, sample, sample_arrays, capsys):
    data = place / "untested"
    nothing = Arrays(
        sample_arrays.train_images, sample_arrays.train_labels, sample_arrays.test_images[:0], np.zeros(0, np.int64)
    )
    write_store(data, nothing, name="untested", class_names=sample.class_names, source="a test")
    assert main(words(place, data, place / "of-untested", limit=None)) == 2
    assert "untested holds no test images" in capsys.readouterr().err


def test_ten_images_a_class_are_studied_and_the_chance_in_it_is_said(place, sample, sample_arrays, capfd):
    data = store(place / "ten", sample_arrays, sample.class_names, [10] * 10)
    arguments = [word for word in words(place, data, place / "of-ten", limit=None) if word != "--quiet"]
    assert main([*arguments, "--stages", "baseline,finetune"]) == 0
    assert "Validation has only 10 images" in " ".join(capfd.readouterr().err.split())
    study = json.loads((place / "of-ten" / "study.json").read_text())
    assert [row["val"]["n"] for row in study["stages"]] == [10, 10]
    assert study["stages"][0]["limit"] is None


def test_one_class_is_refused(place, sample, sample_arrays, capsys):
    data = store(place / "one", sample_arrays, ClassNames(("cat", "dog")), [20, 0])
    description = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(description | {"class_names": ["cat"]}))
    assert main(words(place, data, place / "of-one", limit=None)) == 2
    assert "at least two classes" in capsys.readouterr().err
    assert not (place / "of-one").exists()


def test_a_class_that_could_not_be_validated_is_refused_before_anything_is_trained(place, sample_arrays, capsys):
    data = store(place / "single", sample_arrays, ClassNames(("plane", "car")), [40, 1])
    assert main(words(place, data, place / "of-single", limit=None)) == 2
    assert "Class 'car' has 1 training image" in capsys.readouterr().err
    assert not (place / "of-single").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("augment", {"stronger": {"cta": 0.5}}), ("class_weights", {"cta": 2.0})],
    ids=["stronger", "weight"],
)
def test_a_recipe_that_names_no_class_is_refused_before_anything_is_trained(place, sample_dir, capsys, key, value):
    wrong = json.loads(json.dumps(PLAN))
    wrong["stages"][2]["change"]["finetune"] = TUNE | {key: value}
    out = place / f"of-{key}"
    assert main(words(place, sample_dir, out, plan=wrong)) == 2
    message = capsys.readouterr().err
    assert "Stage 'finetune'" in message
    assert "Did you mean 'cat'?" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stages", "finetnue"], "Did you mean 'finetune'?"),
        (["--stages", ","], "names no stage"),
        (["--stages", "weak-classes"], "Add one before it to --stages"),
        (["--full"], "Keep one of the two"),
        (["--seed", "1", "--seed", "1"], "each only once"),
        (["--backbone", "resnet5o"], "Unknown backbone"),
        (["--set", "finetune.batch_size=5000", "--stages", "finetune"], "there are only 270 training images"),
        (["--set", "finetune.augment.stronger.cat=0.1"], "stage 'weak-classes' tries several values of it"),
        (["--set", "finetune.batch_size=16"], "stage 'weak-classes' tries several values of it"),
        (["--device", "cuda:7"], "--device"),
        (["--plan", "nowhere.yaml"], "Plan nowhere.yaml can't be read: there is no such file"),
    ],
)
def test_wrong_usage_is_answered_before_anything_is_written(place, sample_dir, capsys, more, said):
    out = place / "of-wrong"
    assert main(words(place, sample_dir, out, *more)) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_holds_something_else_is_left_alone(place, sample_dir, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words(place, sample_dir, tmp_path)) == 2
    assert "neither empty nor a study's folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
