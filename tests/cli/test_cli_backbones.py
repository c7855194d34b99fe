"""``headstart backbones``: a table for people, one object for programs."""

import json

import pytest

from headstart.cli import main


def test_lists_the_offline_default_first_hand(capsys):
    assert main(["backbones", "tf_efficientnet_lite0*"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("name")
    assert "tf_efficientnet_lite0.in1k" in out
    assert "package" in out


def test_json_has_the_same_rows_as_the_table(capsys):
    assert main(["backbones"]) == 0
    table = capsys.readouterr().out
    assert main(["backbones", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["backbones"]
    names = [row["name"] for row in rows]
    assert {"tf_efficientnet_lite0.in1k", "resnet50v1.keras_in1k"} <= set(names)
    assert len(table.splitlines()) == len(rows) + 1
    for line, name in zip(table.splitlines()[1:], names, strict=True):
        assert line.split()[0] == name


@pytest.mark.parametrize("pattern", ["zzz*", "resnett"])
def test_no_match_is_wrong_usage(pattern, capsys):
    assert main(["backbones", pattern]) == 2
    assert f"No backbone matches '{pattern}'" in capsys.readouterr().err
