"""What ``train`` and ``evaluate`` hand on, print and answer; the work itself is replaced."""

import json
import shlex
import time
from pathlib import Path
from unittest import mock

import pytest

from headstart.cli import main
from headstart.cli.results import show
from headstart.errors import InputError, RunError, TrainingError
from headstart.wording import typed

METRICS = {
    "val": {"accuracy": 0.93, "n": 1000},
    "test": {
        "accuracy": 0.9312,
        "accuracy_ci95": [0.926, 0.936],
        "n": 10000,
        "ece": 0.0231,
        "ece_calibrated": 0.0071,
    },
    "train_seconds": 187.2,
    "total_seconds": 231.4,
    "peak_rss_mb": 1450.0,
}


FOUND = mock.Mock(to_dict=lambda: METRICS)


@pytest.fixture
def trained():
    with mock.patch("headstart.api.train", autospec=True, return_value=FOUND) as called:
        yield called


@pytest.fixture
def resume():
    with mock.patch("headstart.api.resume", autospec=True, return_value=FOUND) as called:
        yield called


@pytest.fixture
def evaluate():
    with mock.patch("headstart.api.evaluate", autospec=True, return_value=FOUND) as called:
        yield called


def test_train_hands_every_option_on(trained, tmp_path, capsys):
    words = ["train", "cifar10", "--recipe", "quickstart", "--limit", "500", "--budget", "5min"]
    words += ["--out", str(tmp_path / "r")]
    words += ["--backbone", "resnet50v1.keras_in1k", "--weights", "w.h5", "--seed", "7", "--threads", "2"]
    words += ["--device", "cuda:1", "--set", "finetune.lr=1e-4", "--set", "head.dropout=0.25"]
    words += ["--data-dir", str(tmp_path), "--quiet", "--abstain", "0.98"]
    assert main(words) == 0
    assert trained.call_args.args == ("cifar10", "quickstart")
    options = trained.call_args.kwargs
    assert time.time() - 600 < options.pop("started") < time.time()
    assert options.pop("command").startswith("headstart train cifar10 --recipe quickstart --limit 500")
    assert options == {
        "out": tmp_path / "r",
        "overrides": {"finetune.lr": 1e-4, "head.dropout": 0.25},
        "limit": 500,
        "budget": "5min",
        "backbone": "resnet50v1.keras_in1k",
        "weights": "w.h5",
        "seed": 7,
        "abstain": 0.98,
        "data_dir": tmp_path,
        "threads": 2,
        "device": "cuda:1",
        "progress": False,
    }


def test_train_without_options_uses_quickstart_and_a_folder_of_its_name(trained):
    assert main(["train", "cifar10"]) == 0
    options = trained.call_args.kwargs
    assert options["out"] == Path("runs/quickstart")
    assert options["progress"] is True
    assert options["threads"] is options["device"] is options["data_dir"] is None


def test_train_prints_the_result_and_what_to_try_next(trained, capsys):
    assert main(["train", "cifar10", "--out", "runs/x"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Test        93.12% accuracy on 10,000 images (95% interval 92.60% to 93.60%)",
        "Calibration ECE 0.71% (2.31% before temperature scaling)",
        "Cost        3 min 51 s in all, 3 min 7 s of training, peak memory 1.45 GB",
        "Report      runs/x/report.html",
        "Model       runs/x/model",
        "Next        headstart predict runs/x/model IMAGE...",
    ]


def test_train_says_what_a_short_budget_costs_and_which_command_has_more(trained, capsys):
    trained.return_value = mock.Mock(to_dict=lambda: METRICS | {"needed_budget": 900})
    assert main(["train", "my photos/", "--budget", "2min", "--seed=3", "--out", "runs/my run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Budget") and "only the head" in line and "--budget 15min" in line for line in lines)
    assert [shlex.split(line)[-1] for line in lines[-2:]] == ["IMAGE...", "runs/my run-15min"]
    again = ["headstart", "train", "my photos/", "--seed=3", "--budget", "15min", "--out", "runs/my run-15min"]
    assert shlex.split(lines[-1]) == again


def test_train_ends_with_the_command_that_has_room_for_something_better(trained, capsys):
    trained.return_value = mock.Mock(to_dict=lambda: METRICS | {"more_budget": 540})
    assert main(["train", "my photos/", "--out", "runs/a"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "More time   headstart train 'my photos/' --budget 9min --out runs/a-9min"


def test_json_keeps_stdout_free_of_what_libraries_print(trained, capsys):
    trained.side_effect = lambda *_, **__: print("noise of a library") or FOUND
    assert main(["train", "cifar10", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == METRICS
    assert "noise of a library" in err


def test_resume_goes_on_with_the_run(resume, tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path), "--threads", "2"]) == 0
    assert resume.call_args.args == (tmp_path,)
    options = resume.call_args.kwargs
    assert time.time() - 600 < options.pop("started") < time.time()
    assert options.pop("command") == f"headstart train --resume {tmp_path} --threads 2"
    assert options == {"data_dir": None, "threads": 2, "device": None, "progress": True}
    assert str(tmp_path / "report.html") in capsys.readouterr().out


def test_evaluate_hands_run_and_data_on(evaluate, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert main(["evaluate", str(tmp_path / "model"), "cifar10", "--threads", "1", "-q"]) == 0
    assert evaluate.call_args.args == (str(tmp_path / "model"),)
    options = evaluate.call_args.kwargs
    assert options.pop("command").startswith("headstart evaluate")
    extras = {"saliency": False, "corruptions": False, "corruption_images": None}
    assert options == {"data": "cifar10", "data_dir": None, "threads": 1, "device": None, "progress": False} | extras
    assert str(tmp_path / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingError("The loss is nan at step 12."), 1),
        (RunError("runs/x holds a run. Use --resume."), 2),
        (InputError("bad"), 2),
        (KeyboardInterrupt("Stopped at step 3. Go on: headstart train --resume runs/x"), 130),
    ],
)
def test_errors_become_message_and_status(trained, capsys, error, status):
    trained.side_effect = error
    assert main(["train", "cifar10"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{error}\n"
    assert main(["train", "cifar10", "--json"]) == status
    assert json.loads(capsys.readouterr().out) == {"error": str(error)}


def test_ctrl_c_outside_of_training_says_what_was_written_and_how_to_go_on(trained, tmp_path, capsys):
    trained.side_effect = KeyboardInterrupt
    words = ["train", "cifar10", "--out", str(tmp_path)]
    assert main(words) == 130
    assert f"nothing was written to {tmp_path}. The same command" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").touch()
    assert main(words) == 130
    assert f"headstart train --resume {tmp_path}" in capsys.readouterr().err


def test_an_unexpected_error_asks_for_debug(trained, capsys):
    trained.side_effect = ZeroDivisionError("oops")
    assert main(["train", "cifar10"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "--debug" in err
    assert "Traceback" not in err
    assert main(["train", "cifar10", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_finished_run_is_shown_again_from_its_files_alone(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"total_seconds": None}))
    show(tmp_path)
    shown = capsys.readouterr().out
    assert "93.12% accuracy" in shown
    assert "Cost        3 min 7 s of training, peak memory 1.45 GB" in shown
    assert str(tmp_path / "report.html") in shown
    assert shown.endswith(f"\nNext        {typed('predict', tmp_path / 'model', 'IMAGE...')}\n")


def test_train_of_own_images_leaves_a_folder_named_auto(trained, tmp_path):
    assert main(["train", str(tmp_path)]) == 0
    assert trained.call_args.kwargs["out"] == Path("runs/auto")


def test_a_budget_takes_auto_for_cifar10_too(trained):
    assert main(["train", "cifar10", "--budget", "2min"]) == 0
    assert trained.call_args.kwargs["out"] == Path("runs/auto")


def test_the_time_that_was_predicted_stands_beside_the_time_it_took(trained, capsys):
    trained.return_value = mock.Mock(to_dict=lambda: METRICS | {"predicted_seconds": 250.0})
    assert main(["train", "cifar10", "--budget", "5min"]) == 0
    assert "Cost        3 min 51 s in all (4 min 10 s predicted), " in capsys.readouterr().out


def test_help_names_no_value_where_a_flag_takes_none(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--quiet" in shown
    assert "bool" not in shown
