"""The command answers at once where torch is not needed, and says what to do when it is used wrongly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import warm
from headstart.cli import main


def probe(arguments):
    status = main(arguments)
    heavy = sorted({"torch", "timm", "torchvision", "sklearn", "scipy"} & set(sys.modules))
    print("heavy:", *heavy, file=sys.stderr)
    return status


NO_TORCH_NEEDED = [
    (["--help"], 0, "Commands"),
    (["-h"], 0, "Commands"),
    (["--version"], 0, "headstart 0."),
    (["train", "--help"], 0, "--resume"),
    (["evaluate", "--help"], 0, "RUN_OR_MODEL"),
    (["evaluate", "--help"], 0, "captum"),
    (["predict", "--help"], 0, "FILES_OR_FOLDERS"),
    (["backbones", "--help"], 0, "PATTERN"),
    ([], 2, "Commands"),
    (["trian", "cifar10"], 2, "Did you mean 'train'? See"),
    (["train"], 2, "headstart train cifar10"),
    (["train", "x", "--out"], 2, "See headstart train --help."),
    (["train", "cifar10", "--lmit", "5"], 2, "--limit"),
    (["train", "cifar10", "--threads", "0"], 2, "greater than or equal to 1"),
    (["train", "cifar10", "--device", "gpu"], 2, "cuda:N"),
    (["train", "--resume", "runs/x", "--limit", "5", "--seed", "1"], 2, "--limit, --seed would be ignored"),
    (["train", "cifar10", "--resume", "runs/x"], 2, "DATA would be ignored"),
    (["train", "cifar10", "--seed", "1", "--set", "seed=2"], 2, "seed is given twice"),
    (
        ["train", "cifar10", "--set", "finetune.lr=1", "--set", "finetune.lr=2"],
        2,
        "finetune.lr is given twice",
    ),
    (["train", "cifar10", "--recipe", "quikstart"], 2, "Did you mean 'quickstart'?"),
    (["train", "cifar10", "--recipe", "nowhere.yaml"], 2, "Recipe nowhere.yaml can't be read: there is no such file"),
    (
        ["train", "cifar10", "--limit", "0"],
        2,
        "data.limit: input should be greater than or equal to 1 (got 0)",
    ),
    (["train", "cifar10", "--limit", "-3"], 2, "data.limit"),
    (["train", "cifar10", "--epochs", "5"], 2, '--epochs. It is given like this: --set "finetune.schedule=[{epochs: 3'),
    (["train", "cifar10", "--model", "x"], 2, "It is given like this: --backbone tf_"),
    (["train", "cifar10", "--set", "lr=1"], 2, "It is given like this: --set finetune.lr=1e-4"),
    (["train", "cifar10", "--set", "finetune.epochs=3"], 2, 'like this: --set "finetune.schedule=[{epochs: 3'),
    (["train", "cifar10", "--abstain", "99"], 2, "(got 99.0). Did you mean 0.99?"),
    (["train", "cifar10", "--budget", "5"], 2, "did you mean 5min?"),
    (["train", "cifar10", "--set", "finetune.learning_rate=1"], 2, "finetune.learning_rate: unknown key"),
    (["train", "cifar10", "--set", "finetune"], 2, "expected key=value"),
    (["evaluate"], 2, "RUN_OR_MODEL"),
    (["evaluate", "runs/nowhere"], 2, "runs/nowhere does not exist. Give the folder of a run"),
    (["predict", "runs/nowhere"], 2, "FILES_OR_FOLDERS"),
    (["predict", "runs/nowhere", "x.png"], 2, "runs/nowhere does not exist. Give the folder of a run"),
]


def call(arguments, cwd):
    return warm.Warm(probe, arguments, imported=warm.LIGHT, cwd=cwd).wait()


@pytest.mark.parametrize(
    ("arguments", "status", "said"), NO_TORCH_NEEDED, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_answers_without_loading_torch(arguments, status, said, tmp_path):
    done = call(arguments, tmp_path)
    assert done.returncode == status, done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())
    assert done.stderr.splitlines()[-1] == "heavy:"
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "wrong usage left something behind"
    if status == 2 and arguments:
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("serve", ["--port", "N", "--token-file", "FILE"]),
        ("train", ["--out", "FOLDER", "--abstain", "N", "--device", "DEVICE"]),
        ("study", ["--seed", "N"]),
        ("export", ["--format", "FORMAT", "--tolerance", "N"]),
    ],
)
def test_help_names_values_and_not_their_types(capsys, verb, words):
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    for option, value in zip(words[::2], words[1::2], strict=True):
        assert re.search(rf"{option}\s+{value}\s", told)
    assert not re.search(r"<[a-zA-Z]", told)


def test_help_answers_in_half_a_second(tmp_path):
    """Of a processor: what others leave of it is not ours to promise."""

    def spent():
        times = os.times()
        return times.children_user + times.children_system

    seconds = []
    while not any(took < 0.5 for took in seconds):
        assert len(seconds) < 3, seconds
        before = spent()
        done = subprocess.run([sys.executable, "-m", "headstart", "--help"], capture_output=True, cwd=tmp_path)
        seconds.append(spent() - before)
        assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--json"],
        ["train", "--bogus", "--json"],
        ["train", "cifar10", "--recipe", "quikstart", "--json"],
        ["predict", "nowhere", "x.png", "--json"],
        ["evaluate", "nowhere", "--json"],
    ],
)
def test_wrong_usage_with_json_is_one_object_too(arguments, tmp_path):
    done = call(arguments, tmp_path)
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert list(answer) == ["error"]
    assert answer["error"] in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in call(["train", "--debug"], tmp_path).stderr


@pytest.mark.parametrize(("words", "helps"), [("train cifar10", False), ("serve x", True)])
def test_an_export_is_proposed_where_it_needs_less(words, helps, monkeypatch, capsys):
    missing = mock.Mock(side_effect=ModuleNotFoundError(name="torch"))
    monkeypatch.setattr("headstart.api.train", missing)
    monkeypatch.setattr("headstart.server.run.serve", missing)
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert "needs torch, which is not installed" in told
    assert ("headstart export" in told) is helps


def test_words_after_a_double_dash_are_not_options(tmp_path):
    done = call(["predict", "nowhere", "--", "--json"], tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""


COMMAND = """
from dataclasses import dataclass
from headstart import api
from headstart.__main__ import run

@dataclass
class Info:
    name: str

# The real list needs timm, which takes seconds to import.
api.backbones = lambda pattern: [Info("tf_efficientnet_lite0.in1k")]
run()
"""


def shell(line, cwd, **variables):
    """Run a line of shell in which ``$H`` is the command."""
    (cwd / "command.py").write_text(COMMAND)
    script = f'H="{sys.executable} command.py"; {line}'
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=cwd, timeout=120, env=environment | variables
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("words", ["backbones", "backbones --json"])
def test_a_full_disk_is_said_without_a_traceback(tmp_path, words):
    done = shell(f"$H {words} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("words", ["backbones", "backbones --json", "--help"])
def test_a_reader_that_leaves_is_no_error_to_tell(tmp_path, words):
    done = shell(f"$H {words} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path, closed):
    done = shell(f"$H backbones {closed}", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path):
    done = shell("$H predict $'runs/\\x1b[2Jx' y.png", tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "runs/\\x1b[2Jx" in done.stderr


def test_no_color_is_honoured(capfd, monkeypatch):
    coloured = mock.Mock()
    monkeypatch.setattr("typer.secho", coloured)
    for variables in ({}, {"NO_COLOR": "1"}):
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        main(["train"])
    assert [call.kwargs["fg"] is None for call in coloured.call_args_list] == [False, True]


SPIN = """
import os, sys
from unittest import mock
from headstart import __main__
with mock.patch("headstart.cli.main", lambda: print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules) or 0):
    __main__.run()
"""


@pytest.mark.parametrize(
    ("variables", "spin"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_the_command_limits_spinning_before_torch_is_loaded_unless_the_user_has(tmp_path, variables, spin):
    (tmp_path / "spin.py").write_text(SPIN)
    done = shell(f"{sys.executable} spin.py", tmp_path, **variables)
    assert done.stdout.split() == [spin, "False"], done.stderr


def test_importing_headstart_leaves_the_environment_alone(tmp_path):
    done = shell(f"{sys.executable} -c 'import headstart, os; print(os.environ.get(\"GOMP_SPINCOUNT\"))'", tmp_path)
    assert done.stdout == "None\n"
