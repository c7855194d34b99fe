"""``headstart predict``: which files it takes, what it prints, and when it fails."""

import errno
import json
import os
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from PIL import features

from headstart.bundle.schema import Abstention
from headstart.cli import main
from headstart.inference import predictor
from headstart.inference.judge import FilePrediction

TOP = [("cat", 0.75), ("dog", 0.125), ("frog", 0.0625), ("car", 0.03), ("ship", 0.02), ("bird", 0.0125)]


class FakePredictor:
    """Finds a cat in every file, except that names with 'bad' can't be read; others may name doubts."""

    artifact = mock.Mock(abstention=Abstention(target=0.95, threshold=0.8, answered=147, right=140))

    def predict_files(self, paths):
        for path in paths:
            bad = "bad" in path.name or not os.access(path, os.R_OK)
            doubts = {mark: True for mark in ("unsure", "unfamiliar") if mark in path.name}
            yield path, "not an image" if bad else FilePrediction("cat", 0.75, tuple(TOP), **doubts)


@pytest.fixture
def folder(tmp_path):
    with mock.patch("headstart.inference.predictor.load", autospec=True, return_value=FakePredictor()) as load:
        (tmp_path / "model").mkdir()
        (tmp_path / "photos").mkdir()
        for name in ["b.png", "a.JPG", "notes.txt", ".hidden.png", ".trash/d.png", "deep/c.webp"]:
            (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "photos" / name).touch()
        yield tmp_path
    for call in load.call_args_list:
        assert call.args == (tmp_path / "model",)


def predict(folder, *words):
    return main(["predict", str(folder / "model"), *[str(word) for word in words]])


def test_a_folder_is_searched_in_a_stable_order(folder, capsys):
    assert predict(folder, folder / "photos") == 0
    photos = folder / "photos"
    assert capsys.readouterr().out.splitlines() == [
        f"{photos / 'a.JPG'}\tcat\t0.7500",
        f"{photos / 'b.png'}\tcat\t0.7500",
        f"{photos / 'deep' / 'c.webp'}\tcat\t0.7500",
    ]


def test_a_named_file_is_tried_whatever_its_name_and_as_often_as_it_is_named(folder, capsys):
    photos = folder / "photos"
    assert predict(folder, photos / "notes.txt", photos / "b.png", photos) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [str(photos / name) for name in ("notes.txt", "b.png", "a.JPG", "b.png", "deep/c.webp")]


def test_rows_are_printed_as_files_are_named(folder, monkeypatch):
    printed, waiting = [], []

    def lines():
        for row in range(500):
            waiting.append(row - len(printed))
            yield f"{folder / 'photos' / 'b.png'}\n"

    monkeypatch.setattr(sys.modules["headstart.cli.predict"], "print_line", printed.append)
    monkeypatch.setattr("sys.stdin", lines())
    assert predict(folder, "-") == 0
    assert len(printed) == 500
    assert max(waiting) < 100


def test_the_rows_of_json_are_not_kept_in_memory(folder, monkeypatch):
    count, out = 3_000, folder / "out.json"
    assert predict(folder, folder / "photos") == 0, "imports are no rows"
    monkeypatch.setattr("sys.stdin", (f"{folder / 'photos' / 'b.png'}\n" for _ in range(count)))
    with out.open("w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        tracemalloc.start()
        assert predict(folder, "-", "--json") == 0
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(json.loads(out.read_text())["predictions"]) == count
    assert peak < 1.5e6, "the objects would take 3 MB"


def test_json_without_a_place_for_temporary_files_says_what_to_set(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", (f"{folder / 'photos' / 'b.png'}\n" for _ in range(1_000)))
    monkeypatch.setattr("tempfile.tempdir", str(folder / "nowhere"))
    assert predict(folder, "-", "--json") in (1, 2)
    out, err = capsys.readouterr()
    assert "TMPDIR" in json.loads(out)["error"] == err.strip()


def test_top_shows_more_classes(folder, capsys):
    assert predict(folder, folder / "photos" / "b.png", "--top", 2) == 0
    assert capsys.readouterr().out == f"{folder / 'photos' / 'b.png'}\tcat\t0.7500\tdog\t0.1250\n"


def test_doubts_are_marked_in_the_last_column_and_explained(folder, capsys):
    photos = folder / "photos"
    for name in ("c-unsure.png", "d-unsure-unfamiliar.png"):
        (photos / name).touch()
    assert predict(folder, photos) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[1:] for line in out.splitlines()] == [
        ["cat", "0.7500"],
        ["cat", "0.7500"],
        ["cat", "0.7500", "unsure"],
        ["cat", "0.7500", "unsure, unfamiliar"],
        ["cat", "0.7500"],
    ]
    assert "2 of 5 marked unsure: its probability is below 80%" in err
    assert "1 of 5 marked unfamiliar" in err
    assert predict(folder, photos, folder / "bad.png") == 1
    assert "2 of 5 marked unsure" in capsys.readouterr().err
    assert predict(folder, photos, "--top", 2) == 0
    assert capsys.readouterr().out.splitlines()[2].endswith("\tdog\t0.1250\tunsure")
    assert predict(folder, photos, "--json") == 0
    out, err = capsys.readouterr()
    assert [row.get("unsure") for row in json.loads(out)["predictions"]] == [None, None, True, True, None]
    assert "of 5 marked" not in err


def test_json_is_the_contract_of_the_design(folder, capsys):
    file = folder / "photos" / "b.png"
    assert predict(folder, file, "--json") == 0
    top = [[name, probability] for name, probability in TOP[:5]]
    expected = {"file": str(file), "label": "cat", "probability": 0.75, "top": top}
    assert json.loads(capsys.readouterr().out) == {"predictions": [expected], "skipped": []}


def test_a_bad_file_is_named_and_the_others_are_predicted(folder, capsys):
    bad = folder / "photos" / "bad.png"
    bad.write_text("text")
    missing = folder / "missing.png"
    assert predict(folder, folder / "photos", missing) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert f"{bad}: not an image" in err
    assert "2 of 5 files and folders could not be read" in err
    assert predict(folder, bad) == 1
    assert "1 of 1 file or folder could not be read" in capsys.readouterr().err
    assert predict(folder, folder / "photos", missing, "--json") == 1
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [set(row) == {"file", "error"} for row in rows] == [False, False, True, False, True]


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".ico", ".AVIF", ".apng", ".mpo"])
def test_a_folder_gives_every_format_that_can_be_read(folder, capsys, suffix):
    if suffix == ".AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    (folder / "photos" / f"z{suffix}").touch()
    assert predict(folder, folder / "photos") == 0
    assert f"z{suffix}\tcat" in capsys.readouterr().out


def test_what_a_folder_holds_besides_is_counted_and_named(folder, capsys):
    photos = folder / "photos"
    for name in ("phone.jxl", "deep/phone2.JXL", "README"):
        (photos / name).touch()
    assert predict(folder, photos) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    for told in ("Skipped 4 files", "2 .jxl", "1 .txt", "phone.jxl", "phone2.JXL", "JPEG or PNG"):
        assert told in err
    assert predict(folder, photos, "--json") == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped == [str(photos / name) for name in ("README", "notes.txt", "phone.jxl", "deep/phone2.JXL")]


def test_a_folder_that_may_not_be_searched_does_not_stop_the_others(folder, capsys, monkeypatch):
    closed = folder / "photos" / "closed"
    closed.mkdir()
    scan = os.scandir

    def guarded(path):
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert predict(folder, folder / "photos") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert f"{closed}: no permission" in err
    assert predict(folder, folder / "photos", "--json") == 1
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["file"] for row in rows if "error" in row] == [str(closed)]


def test_over_long_and_looping_paths_do_not_stop_the_others(folder, capsys):
    loop = folder / "photos" / "loop.png"
    loop.symlink_to(loop)
    (folder / "photos" / "around").symlink_to(folder / "photos")
    long = folder / ("x" * 5000)
    assert predict(folder, folder / "photos", long) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "2 of 5 files" in err


def test_control_characters_of_names_are_escaped(folder, capsys):
    forged = folder / "photos" / "a\tcat\t1.0000\n\x1b[2Jfake\u2028.png"
    forged.touch()
    assert predict(folder, forged, folder / "photos" / "bad\x1b[31m.png") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert out.count("\t") == 2
    assert r"\x1b[2Jfake\u2028.png" in out
    assert r"bad\x1b[31m.png" in err
    assert predict(folder, forged, "--json") == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["file"] == str(forged)


def test_an_empty_folder_among_others_is_said(folder, capsys):
    (folder / "empty").mkdir()
    assert predict(folder, folder / "empty", folder / "photos") == 0
    assert f"{folder / 'empty'}: no images in this folder" in capsys.readouterr().err


def test_what_is_no_model_is_answered_with_one(folder, capsys):
    (folder / "model" / "config.json").touch()
    (folder / "modem").mkdir()
    for words, told in (
        (["photos", "model"], f"Give the model first: headstart predict {folder / 'model'} {folder / 'photos'}"),
        (["model/config.json", "photos"], f"is a file, not a folder. Did you mean '{folder / 'model'}'?"),
        (["mode", "photos"], "does not exist. Did you mean 'model'?"),
        (["modem/x", "photos"], "does not exist. Give the folder"),
    ):
        assert main(["predict", *(str(folder / word) for word in words)]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["empty"], "Found no images in"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (["empty", "nowhere"], "nowhere: no such file"),
    ],
)
def test_nothing_found_is_wrong_usage(folder, capsys, words, told):
    (folder / "empty").mkdir()
    assert predict(folder, *[folder / word for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


def test_odd_file_names_are_printed_escaped(folder, capsys):
    odd = folder / "photos" / "caf\udce9 [bold].png"
    odd.touch()
    assert predict(folder, odd, "--json") == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["file"] == str(odd)


def test_threads_and_device_are_honoured(folder):
    assert predict(folder, folder / "photos", "--threads", 3, "--device", "cpu") == 0
    assert predictor.load.call_args.kwargs == {"device": "cpu", "threads": 3}


def test_an_unknown_device_is_refused_before_anything_is_loaded(folder, capsys):
    assert predict(folder, folder / "photos", "--device", "tpu") == 2
    assert "Allowed: cpu, cuda" in capsys.readouterr().err
