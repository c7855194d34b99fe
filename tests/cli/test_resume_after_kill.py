"""A run that is killed again and again ends with the same weights, bit for bit, as one that never was."""

import csv
import json
import random
import signal
import time

import pytest
from safetensors.numpy import load_file

import warm
from headstart.cli import main
from headstart.training import loop

BUSY = [
    # Everything that draws random numbers or keeps a state between steps.
    "finetune.schedule=[{epochs: 2, size: 32}, {epochs: 1, size: 48}]",
    "finetune.batch_size=16",
    "finetune.lr=0.01",
    "finetune.ema=0.9",
    "finetune.augment={trivial: 0.5, mixup: 0.2, cutmix: 1.0}",
    "finetune.freeze={stages: 1, batch_norm: true, depthwise: false}",
    "head.dropout=0.2",
    # Timing might choose another arithmetic for the second run.
    "hardware.precision=fp32",
    "hardware.memory_format=channels_last",
    # A checkpoint at every step.
    "hardware.checkpoint_minutes=1.0e-9",
    # Nothing that training could fail to improve on.
    "probe=null",
]
TINY = ["--backbone", "test_efficientnet.r160_in1k", "--weights", "none", "--threads", "1"]
REUSED = [
    # Two views that come back, so that what a killed process stored is read by the next.
    "finetune.schedule=[{epochs: 4, size: 32}]",
    "finetune.augment={trivial: 0.5, views: 2}",
    "finetune.freeze={stages: 2, batch_norm: true, depthwise: false}",
    "probe={size: 32}",
]


def command(sample_dir, out, backbone, changes=()):
    changed = [setting.partition("=")[0] for setting in changes]
    kept = [setting for setting in BUSY if setting.partition("=")[0] not in changed]
    settings = [argument for setting in (*kept, *changes) for argument in ("--set", setting)]
    base = ["train", str(sample_dir), "--limit", "200", "--out", str(out), "--seed", "3"]
    return [*base, "--recipe", "quickstart", *backbone, *settings]


def resume(out):
    return ["train", "--resume", str(out)]


def run(arguments):
    done = warm.headstart(*arguments).wait()
    assert done.returncode == 0, done.stderr
    return done


def kill_at_random(arguments, out, moments, *, whole, in_training):
    """Start a process and kill it at a random moment; return whether it was still running then.

    Half of the moments are drawn from the clock, and may hit anything from the imports to the report; the other half
    from the steps to come, so that a slow machine's kills reach the training too.
    """
    by_step = in_training or moments.random() < 0.5
    deadline = time.monotonic() + moments.uniform(0.2, 0.9) * whole
    step, delay = steps_saved(out) + moments.randint(1, 8), moments.uniform(0, 0.05)
    process = warm.headstart(*arguments)
    while process.is_alive():
        if steps_saved(out) >= step if by_step else time.monotonic() >= deadline:
            time.sleep(delay)
            return kill(process)
        time.sleep(0.005)
    process.wait()
    return False


def kill_at(arguments, out, step, delay):
    """Start a process and kill it ``delay`` seconds after it has saved that step."""
    process = warm.headstart(*arguments)
    while steps_saved(out) < step:
        assert process.is_alive(), f"the run ended before step {step}"
        time.sleep(0.01)
    time.sleep(delay)
    assert kill(process)


def kill(process):
    """Return whether the process was still running."""
    process.signal(signal.SIGKILL)
    return process.wait().returncode == -signal.SIGKILL


def steps_saved(out):
    steps = [int(path.name.split("-")[1]) for path in (out / "checkpoints").glob("step-*.safetensors")]
    return max(steps, default=0)


def assert_killed_equals_unbroken(sample_dir, folder, backbone, *, kills, seed):
    unbroken, killed = folder / "unbroken", folder / "killed"
    started = time.monotonic()
    run(command(sample_dir, unbroken, backbone))
    whole = time.monotonic() - started

    moments = random.Random(seed)
    landed, in_training = 0, 0
    while landed < kills:
        begun = (killed / "recipe.yaml").is_file()
        arguments = resume(killed) if begun else command(sample_dir, killed, backbone)
        if not kill_at_random(arguments, killed, moments, whole=whole, in_training=not in_training):
            # It came to its end between two kills: the rest of the kills hit a new run.
            assert (killed / "report.html").is_file()
            assert_equal(unbroken, killed)
            killed = killed.with_name(f"killed-{landed}")
            continue
        landed += 1
        in_training += steps_saved(killed) > 0 and not (killed / "training.json").is_file()
    if not (killed / "report.html").is_file():
        run(resume(killed) if (killed / "recipe.yaml").is_file() else command(sample_dir, killed, backbone))
    assert_equal(unbroken, killed)
    assert in_training, f"none of {kills} kills came while the network was being trained"


def assert_equal(unbroken, killed):
    expected, got = (load_file(path / "model" / "model.safetensors") for path in (unbroken, killed))
    assert expected.keys() == got.keys()
    different = [name for name in expected if expected[name].tobytes() != got[name].tobytes()]
    assert not different, f"{len(different)} of {len(expected)} tensors differ, e.g. {different[:3]}"
    one, other = (json.loads((path / "metrics.json").read_text()) for path in (unbroken, killed))
    assert one["test"] == other["test"]
    assert what_was_learnt(unbroken) == what_was_learnt(killed)


def what_was_learnt(run):
    """Return the history without what a clock decides."""
    with (run / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def test_three_kills(sample_dir, tmp_path):
    assert_killed_equals_unbroken(sample_dir, tmp_path, TINY, kills=3, seed=1)


def test_kills_while_frozen_stages_are_stored_and_read(sample_dir, tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    done = run(command(sample_dir, unbroken, TINY, REUSED))
    assert "Frozen stages run once" in done.stderr
    moments = random.Random(4)
    # 11 steps an epoch: the first view is being stored, and then read.
    for step in (5, 25):
        arguments = resume(killed) if step > 5 else command(sample_dir, killed, TINY, REUSED)
        kill_at(arguments, killed, step, moments.uniform(0, 0.05))
        assert list(killed.glob("checkpoints/frozen-view*"))
    run(resume(killed))
    assert_equal(unbroken, killed)
    assert not [path for out in (unbroken, killed) for path in out.glob("checkpoints/frozen-*")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_kills_of_the_default_backbone(sample_dir, tmp_path):
    assert_killed_equals_unbroken(sample_dir, tmp_path, ["--threads", "2"], kills=30, seed=2)


def test_ctrl_c_during_the_last_validation_leaves_the_test_split_sealed(sample_dir, tmp_path, monkeypatch):
    finish_epoch = loop._finish_epoch

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return finish_epoch(*arguments)

    monkeypatch.setattr(loop, "_finish_epoch", interrupted)
    out = tmp_path / "run"
    arguments = command(sample_dir, out, TINY, ["finetune.schedule=[{epochs: 1, size: 48}]"])
    assert main([*arguments, "--quiet"]) == 130
    assert not (out / "metrics.json").exists()
    assert json.loads((out / "environment.json").read_text())["test_openings"] == []
    monkeypatch.undo()
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert (out / "report.html").is_file()


def test_ctrl_c_stops_at_the_next_step_saves_and_says_how_to_go_on(sample_dir, tmp_path):
    out = tmp_path / "run"
    arguments = command(sample_dir, out, TINY, ["finetune.schedule=[{epochs: 500, size: 48}]"])
    process = warm.headstart(*arguments)
    deadline = time.monotonic() + 120
    while steps_saved(out) < 3 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.signal(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130, done.stderr
    assert f"headstart train --resume {out}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert steps_saved(out) >= 3
    assert not (out / "model").exists()
