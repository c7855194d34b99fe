"""Reading and writing the files of a run, and what is said of damaged ones."""

import json
import os

import pytest

from headstart.contracts import EpochRecord
from headstart.errors import InputError, RunError
from headstart.recipe.schema import Recipe
from headstart.runs.records import Environment, Opening, Surroundings, TrainingFacts
from headstart.runs.run import Run

EPOCH = EpochRecord(
    epoch=1,
    train_loss=0.5,
    train_accuracy=0.25,
    val_loss=0.4,
    val_accuracy=0.75,
    learning_rate=1e-4,
    image_size=64,
    seconds=1.5,
    images_per_second=200.0,
)
FACTS = TrainingFacts(
    train_seconds=1.0,
    train_images_per_second=2.0,
    backbone="b",
    device="cuda:1",
    precision="bf16",
    seed=0,
    peak_rss_mb=3.0,
    best_epoch=1,
)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    run.write_environment(Environment(versions={"headstart": "0"}, threads=2, seed=1, command="x"))
    run.write_recipe(Recipe())
    return run


def test_what_is_written_is_read_back_equal(run):
    run.write_history([EPOCH])
    run.write_training(FACTS)
    assert run.history() == [EPOCH]
    assert run.training() == FACTS
    assert run.environment() == Environment(versions={"headstart": "0"}, threads=2, seed=1, command="x")


def test_facts_are_added_to_the_environment_and_what_a_later_version_wrote_stays(run):
    path = run.path / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"from_the_future": 1}))
    run.update_environment(arithmetic={"precision": "fp32"})
    process = Surroundings(command="y", started="now", threads=4, device="cpu", versions={"torch": "3"}, hardware={})
    run.note_resumed(process)
    run.note_opening(Opening(time="now", command="y", weights_sha256="ab"))
    known = json.loads(path.read_text())
    assert known["from_the_future"] == 1
    assert known["resumed"][0]["versions"] == {"torch": "3"}
    assert known["test_openings"] == [{"time": "now", "command": "y", "weights_sha256": "ab"}]
    assert run.environment().arithmetic == {"precision": "fp32"}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"threads": "many"}',
        b'{"test_openings": 3}',
        b'{"data": {"name": 1}}',
        b'{"versions": []}',
        b'{"arithmetic": 1}',
        b'{"hardware": null}',
        b"[" * 100_000,
        b'{"threads": 1e999}',
        b'{"anything": NaN}',
        b'{"hardware": {"ram_gb": 1e999}}',
        b'{"anything": ' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_a_damaged_environment_is_named_before_anything_is_done(run, damage):
    (run.path / "environment.json").write_bytes(damage)
    for work in (run.environment, lambda: run.note_opening(Opening("t", "c")), lambda: run.update_environment(seed=2)):
        with pytest.raises(RunError, match=r"environment\.json"):
            work()
    assert (run.path / "environment.json").read_bytes() == damage


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("training.json", '{"seed": 1}', Run.training),
        ("metrics.json", '{"test": {}}', Run.metrics),
        ("metrics.json", '{"val": 1}', Run.metrics),
        ("validation.json", '{"accuracy": 2}', Run.validation),
        ("history.csv", "epoch,train_loss\n1,x\n", Run.history),
        ("history.csv", "epoch\n\x00\n", Run.history),
        ("predictions.csv", "row,label\n1,2\n", Run.predictions),
        ("recipe.yaml", "finetune: {lr: -1}", Run.recipe),
        ("recipe.yaml", "a: [", Run.recipe),
        ("corruptions.json", "nonsense", Run.corruptions),
    ],
)
def test_a_damaged_file_is_named(run, name, content, read):
    (run.path / name).write_text(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        read(run)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("environment.json", Run.environment),
        ("metrics.json", Run.metrics),
        ("history.csv", Run.history),
        ("predictions.csv", Run.predictions),
        ("recipe.yaml", Run.recipe_text),
        ("split_manifest.csv", Run.manifest),
    ],
)
def test_a_file_of_absurd_size_is_named_instead_of_filling_the_memory(run, name, read):
    (run.path / name).touch()
    os.truncate(run.path / name, 10**13)
    with pytest.raises(InputError, match=rf"{name}.*10,000,000 MB"):
        read(run)


def test_checkpoints_go_and_what_else_lies_there_stays(run):
    (run.checkpoints / "mine").mkdir(parents=True)
    (run.checkpoints / "step-1.safetensors").touch()
    run.drop_checkpoints()
    assert [path.name for path in run.checkpoints.iterdir()] == ["mine"]


def test_a_class_name_with_a_line_separator_does_not_split_a_row(run):
    row = '7,ab,"sea\u2028ice",dog,0.5'
    (run.path / "predictions.csv").write_text(f"row,sha256,label,predicted,probability\n{row}\n", encoding="utf-8")
    assert run.predictions()[0].label == "sea\u2028ice"
