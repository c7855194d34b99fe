"""Two processes that torchrun starts train one network, as one process would."""

import json
import os
import subprocess
import sys

import pytest

import warm
from headstart.runs.run import Run

SETTINGS = [
    "finetune.schedule=[{epochs: 2, size: 48}]",
    "finetune.batch_size=32",
    "finetune.lr=1e-3",
    "finetune.freeze.batch_norm=true",
    "probe={solver: adam, size: 48, epochs: 1}",
    "evaluation.size=48",
    "hardware.precision=fp32",
    "hardware.memory_format=contiguous",
]


LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def words(sample_dir, out):
    told = ["train", sample_dir, "--out", out, "--backbone", "test_efficientnet.r160_in1k", "--weights", "none"]
    told += [part for setting in SETTINGS for part in ("--set", setting)]
    return [str(word) for word in (*told, "--limit", 100, "--threads", 1, "--json", "--quiet")]


def torchrun(arguments):
    done = subprocess.run(
        [sys.executable, *LAUNCHER, "-m", "headstart", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout, done.stderr


def quick_plan(arguments):
    """Run the command, which times its steps on few pixels."""
    from headstart.workflows import plan

    plan.MEASURED = (32,)
    warm.command(arguments)


def started_alike(arguments):
    """What torchrun would do, without its launcher and without importing everything anew."""
    main, other = warm.together(quick_plan, arguments)
    return main.returncode or other.returncode, main.stdout + other.stdout, main.stderr + other.stderr


STARTS = pytest.mark.parametrize("start", [started_alike, pytest.param(torchrun, marks=pytest.mark.slow)])


@STARTS
def test_two_processes_give_the_curve_of_one_and_one_object(own_home, sample_dir, tmp_path, start):
    done = warm.Warm(quick_plan, words(sample_dir, tmp_path / "one")).wait()
    assert done.returncode == 0, done.stderr
    status, out, err = start(words(sample_dir, tmp_path / "several"))
    assert status == 0, err[-3000:]
    one, several = Run(tmp_path / "one"), Run(tmp_path / "several")
    assert json.loads(out) == several.metrics().to_dict(), "one object, from the main process"
    for ours, theirs in zip(one.history(), several.history(), strict=True):
        assert theirs.train_loss == pytest.approx(ours.train_loss, abs=1e-4)
        assert theirs.val_loss == pytest.approx(ours.val_loss, abs=1e-4)
    assert several.metrics().test.n == one.metrics().test.n
    assert several.metrics().test.nll == pytest.approx(one.metrics().test.nll, abs=1e-3)


@STARTS
def test_a_refusal_ends_all_processes(own_home, sample_dir, tmp_path, start):
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "thesis.txt").write_text("mine")
    status, _, err = start(words(sample_dir, tmp_path / "several"))
    assert status != 0
    assert "not an empty folder" in err
    assert "This is a bug in headstart" not in err
