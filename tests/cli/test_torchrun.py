"""Two processes that torchrun starts train one network, as one process would."""

import json
import os
import subprocess
import sys

import pytest

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


def train(sample_dir, folder, *launcher):
    out = folder / ("several" if launcher else "one")
    words = ["train", sample_dir, "--out", out, "--backbone", "test_efficientnet.r160_in1k", "--weights", "none"]
    words += [part for setting in SETTINGS for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "headstart", *map(str, words), "--threads", "1", "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HEADSTART_HOME": str(folder / "home")},
    )
    return Run(out), done


def test_two_processes_give_the_curve_of_one_and_one_answer(sample_dir, tmp_path):
    one, done = train(sample_dir, tmp_path)
    assert done.returncode == 0, done.stderr
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    several, done = train(sample_dir, tmp_path, *launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == several.metrics().to_dict(), "one object, from the main process"
    for ours, theirs in zip(one.history(), several.history(), strict=True):
        assert theirs.train_loss == pytest.approx(ours.train_loss, abs=1e-4)
        assert theirs.val_loss == pytest.approx(ours.val_loss, abs=1e-4)
    assert several.metrics().test.n == one.metrics().test.n
    assert several.metrics().test.nll == pytest.approx(one.metrics().test.nll, abs=1e-3)


def test_a_refusal_ends_all_processes(sample_dir, tmp_path):
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "thesis.txt").write_text("mine")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    _, done = train(sample_dir, tmp_path, *launcher)
    assert done.returncode != 0
    assert "not an empty folder" in done.stderr
    assert "This is a bug in headstart" not in done.stderr
