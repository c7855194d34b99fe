"""Claiming, reopening and locking a run's folder."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.data.ledger import Ledger, LedgerRow
from headstart.errors import RunError
from headstart.files import temporary_name
from headstart.recipe.schema import Recipe
from headstart.runs.folder import check_free, claim_run, reopen_run
from headstart.runs.records import Environment
from headstart.runs.run import Run

STARTED = Environment(
    versions={"headstart": "0"}, threads=3, device="cpu", command="headstart train x", data_dir="/data"
)


def test_a_claimed_folder_can_be_reopened_with_the_same_recipe(tmp_path):
    recipe = Recipe(seed=7)
    with claim_run(tmp_path / "run", recipe, STARTED):
        pass
    with reopen_run(tmp_path / "run") as run:
        assert run.recipe() == recipe
        assert not run.is_trained


def test_what_a_resumed_process_needs_is_there_before_the_folder_counts_as_a_run(tmp_path, monkeypatch):
    def killed(self, _recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr("headstart.runs.run.Run.write_recipe", killed)
    with pytest.raises(KeyboardInterrupt), claim_run(tmp_path / "run", Recipe(), STARTED):
        pass
    monkeypatch.undo()
    known = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (known["threads"], known["data_dir"], known["command"]) == (3, "/data", "headstart train x")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    with claim_run(tmp_path / "run", Recipe(seed=1), STARTED) as run:
        assert run.recipe().seed == 1


def test_the_ledger_is_there_before_the_folder_counts_as_a_run(tmp_path, monkeypatch):
    def killed(self, _recipe):
        raise KeyboardInterrupt

    row = LedgerRow("cat/1.jpg", "ab", "JPEG", 3, 4, "cat", "", "train", "used", "")
    monkeypatch.setattr("headstart.runs.run.Run.write_recipe", killed)
    with pytest.raises(KeyboardInterrupt), claim_run(tmp_path, Recipe(), STARTED, Ledger(tmp_path, (row,))):
        pass
    monkeypatch.undo()
    assert list(Run(tmp_path).ledger_rows()) == [row]
    check_free(tmp_path)
    (tmp_path / "files.csv").write_text("path,mine\n")
    with pytest.raises(RunError, match="not an empty folder"):
        check_free(tmp_path)


def test_a_file_in_place_of_the_folder_is_called_one(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(RunError, match=r"f is a file\. Give a folder with --out"):
        check_free(tmp_path / "f")


def test_a_folder_is_claimed_once(tmp_path):
    with claim_run(tmp_path, Recipe(), STARTED):
        pass
    with pytest.raises(RunError, match=r"already holds a run.*--resume"), claim_run(tmp_path, Recipe(), STARTED):
        pass


@pytest.mark.parametrize("name", ["thesis.txt", "environment.json"])
def test_a_folder_with_other_files_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(RunError, match="not an empty folder"):
        check_free(tmp_path)


def test_what_a_killed_process_left_does_not_block_the_folder_and_is_swept(tmp_path):
    left = tmp_path / ".recipe.yaml-0a1b2c3d"
    left.write_text("half")
    with claim_run(tmp_path, Recipe(), STARTED):
        assert not left.exists()


def test_the_checkpoint_that_a_killed_process_was_writing_is_swept(tmp_path):
    with claim_run(tmp_path, Recipe(), STARTED) as run:
        left = run.checkpoints / temporary_name("step-000000001-0.safetensors")
        left.write_bytes(b"half")
    with reopen_run(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_lies_in_the_place_of_the_checkpoints_is_named(tmp_path, kind):
    with claim_run(tmp_path, Recipe(), STARTED) as run:
        run.checkpoints.rmdir()
    run.checkpoints.touch() if kind == "file" else run.checkpoints.symlink_to("/nowhere")
    with pytest.raises(RunError, match="checkpoints can't be the folder"), reopen_run(tmp_path):
        pass


def test_a_folder_that_holds_no_run_can_not_be_resumed(tmp_path):
    for name in ("photos", "photo"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "recipe.yaml").touch()
    with pytest.raises(RunError, match=r"does not exist. Did you mean 'photos'"), reopen_run(tmp_path / "phot"):
        pass
    with pytest.raises(RunError, match="holds no run"), reopen_run(tmp_path):
        pass


HOLD = """
import sys
from pathlib import Path
from headstart.runs.folder import reopen_run
with reopen_run(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_the_first_and_a_killed_one_holds_nothing(tmp_path):
    with claim_run(tmp_path / "run", Recipe(), STARTED):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(RunError) as told, reopen_run(tmp_path / "run"):
            pass
        assert f"process {holder.pid} on {socket.gethostname()}" in str(told.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with reopen_run(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()


def test_one_process_can_not_work_on_a_run_twice_at_once(tmp_path):
    with (
        claim_run(tmp_path, Recipe(), STARTED),
        pytest.raises(RunError, match="Another process works in"),
        reopen_run(tmp_path),
    ):
        pass


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 2100])
def test_a_path_that_is_too_long_is_refused(tmp_path, path):
    with pytest.raises(RunError, match="too long"):
        check_free(Path(tmp_path / path))
