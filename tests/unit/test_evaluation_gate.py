"""``headstart compare OLD NEW --gate``: the exit status that a release pipeline acts on."""

import json

import pytest

from headstart.cli import main
from headstart.errors import InputError
from headstart.evaluation.gate import Gate, parse_gate


def test_a_condition_is_read_in_words():
    for text in ("not worse than 0.5 points at 95 %", "Not worse  than 0.5 point at 95%", "not worse than 0.5 points"):
        assert parse_gate(text) == Gate(0.5)
    for text in (
        "",
        "better",
        "not worse than 1 point at 99 %",
        "not worse than -1 points",
    ):
        with pytest.raises(InputError, match=r"not worse than 0\.5 points at 95 %"):
            parse_gate(text)


@pytest.mark.parametrize(("low", "high", "passed"), [(-0.005, 0.01, True), (-0.0051, 0.2, False), (0.01, 0.02, True)])
def test_the_lower_end_of_the_interval_decides(low, high, passed):
    pair = {"first": "old", "second": "new", "accuracy_change": {"value": 0.0, "ci95": [low, high]}}
    assert Gate(0.5).judge(pair)["passed"] is passed


def test_the_exit_status_tells_a_pipeline(make_evaluated_run, capsys):
    old, new = (make_evaluated_run(name=name, strength=strength) for name, strength in (("old", 50), ("new", 0.2)))
    gate = ["--gate", "not worse than 0.5 points at 95 %"]
    assert main(["compare", str(old.path), str(new.path), *gate]) == 1
    assert "FAILED: new could be worse than old by up to" in capsys.readouterr().out
    assert main(["compare", str(new.path), str(old.path), *gate, "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["gate"]
    assert judged["passed"]
    assert judged["points"] == 0.5
    assert judged["worst_loss_points"] < 0
    assert main(["compare", str(old.path), str(new.path), "--gate", "good"]) == 2
    assert main(["compare", str(old.path), str(new.path), str(old.path), *gate]) == 2
