"""``headstart predict --out``: what the file holds, and that it can be continued and is never mixed up."""

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headstart.bundle.config import Bundle
from headstart.bundle.folder import save_bundle
from headstart.bundle.schema import Abstention
from headstart.cli import main
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.data.sources.discover import discover
from headstart.data.sources.tables import Columns
from headstart.files import alone
from headstart.inference import prediction_file
from headstart.inference.predictor import load
from headstart.models.heads import empty_classifier
from headstart.terminal import Terminal

NAMES = ClassNames(("cat", "=dog", "bird"))


@pytest.fixture(scope="module")
def bundle():
    return Bundle(
        module=empty_classifier("test_efficientnet", num_classes=3),
        class_names=NAMES,
        preprocess=Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        architecture="test_efficientnet",
        backbone="test_efficientnet",
        hidden=(),
        dropout=0.0,
        dataset="animals",
        manifest_sha256="",
        abstention=Abstention(target=0.99, threshold=0.4),
    )


@pytest.fixture
def place(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "model")
    generator = np.random.default_rng(0)
    for name in ("a.png", "deep/b\r.png", "deep/=c.png", 'deep/d,"e.png', "f.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "bad.png").write_bytes(b"nothing")
    (tmp_path / "photos" / "notes.txt").touch()
    return tmp_path


def predict(place, out, *words, inputs=("photos",)):
    paths = [str(place / word) if word != "-" else word for word in inputs]
    return main(["predict", str(place / "model"), *paths, "--out", str(place / out), "--threads", "1", *words])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_has_a_row_per_file_with_all_probabilities(place, capsys):
    assert predict(place, "p.csv") == 1  # a file could not be read
    rows = rows_of(place / "p.csv")
    told = capsys.readouterr()
    assert "6 rows" in told.out
    assert "notes.txt" in told.err
    columns = [
        "file",
        "predicted",
        "probability",
        "p_cat",
        "p_=dog",
        "p_bird",
        "unsure",
        "unfamiliar",
        "novelty",
        "error",
    ]
    assert list(rows[0]) == columns
    names = [str(place / "photos" / name) for name in ("a.png", "bad.png", "f.png")]
    assert [row["file"] for row in rows[:3]] == names
    assert rows[1]["error"]
    assert not rows[1]["predicted"]
    expected = load(place / "model").predict(names[0])
    assert [float(rows[0][f"p_{name}"]) for name in NAMES] == pytest.approx(
        expected.probabilities[0].tolist(), abs=1e-6
    )
    assert rows[0]["unsure"] == str(bool(expected.unsure[0])).lower()
    assert not rows[0]["novelty"], "this classifier has no novelty score"
    assert all(not row["predicted"].startswith("=") for row in rows)
    assert list(place.glob(".p.csv*")) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("cut", [0, 3, 25])
def test_an_interrupted_file_is_continued_to_the_same_bytes(place, monkeypatch, kind, cut):
    predict(place, f"whole.{kind}")
    monkeypatch.setattr(prediction_file, "_FLUSHED", 1)
    whole_rows = prediction_file.predicted

    def stopped(predictor, files):
        for number, row in enumerate(whole_rows(predictor, files)):
            if number == 4:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(prediction_file, "predicted", stopped)
    assert predict(place, f"p.{kind}") == 130
    monkeypatch.setattr(prediction_file, "predicted", whole_rows)
    rows_at = place / (".p.parquet.rows.jsonl" if kind == "parquet" else f"p.{kind}")
    rows_at.write_bytes(rows_at.read_bytes()[: -cut or None])  # the middle of a row
    assert predict(place, f"p.{kind}") == 1
    if kind == "parquet":
        assert pq.read_table(place / "p.parquet") == pq.read_table(place / "whole.parquet")
    else:
        assert (place / f"p.{kind}").read_bytes() == (place / f"whole.{kind}").read_bytes()
    assert not list(place.glob(".p.*"))


def unfinished(place, monkeypatch, out="p.csv"):
    def stopped(predictor, files):
        for file in files:
            yield file.path, "no"
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prediction_file, "predicted", stopped)
        assert predict(place, out, inputs=["photos/f.png", "photos/a.png"]) == 130


def test_a_file_of_another_classifier_option_or_list_is_refused(place, bundle, monkeypatch, capsys):
    unfinished(place, monkeypatch)
    before = (place / "p.csv").read_bytes()
    assert predict(place, "p.csv", inputs=["photos/a.png"]) == 2
    assert "other files" in capsys.readouterr().err
    assert predict(place, "p.csv", "--top", "2", inputs=["photos/f.png"]) == 2
    save_bundle(replace(bundle, temperature=2.0), place / "model")
    assert predict(place, "p.csv", inputs=["photos/f.png"]) == 2
    assert "another classifier" in capsys.readouterr().err
    assert (place / "p.csv").read_bytes() == before


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_somebody_else_wrote_in_place_of_an_unfinished_file_stays(place, monkeypatch, capsys, kind):
    out = place / f"p.{kind}"
    unfinished(place, monkeypatch, out.name)
    out.write_text("my own notes")
    assert predict(place, out.name, inputs=["photos/f.png", "photos/a.png"]) == 2
    assert "another --out" in capsys.readouterr().err
    assert out.read_text() == "my own notes"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_were_damaged_are_told_and_not_cut(place, monkeypatch, capsys, kind):
    out = place / f"p.{kind}"
    unfinished(place, monkeypatch, out.name)
    with out.open("ab") as file:
        file.write(b'{"what": 1}\nx\n')
    before = out.read_bytes()
    assert predict(place, out.name, inputs=["photos/f.png", "photos/a.png"]) == 2
    assert f"{out} is damaged after 1 whole row." in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_parquet_file_that_was_removed_is_begun_again(place, monkeypatch):
    unfinished(place, monkeypatch, "p.parquet")
    (place / ".p.parquet.unfinished").unlink()
    assert predict(place, "p.parquet", inputs=["photos/a.png"]) == 0
    assert pq.read_table(place / "p.parquet")["file"].to_pylist() == [str(place / "photos" / "a.png")]


def test_two_commands_do_not_write_the_same_file(place, capsys):
    def wait():
        pytest.fail("nobody has it")

    with alone(place / ".p.csv.lock", waiting=wait):
        assert predict(place, "p.csv") == 2
    assert "Another command writes" in capsys.readouterr().err
    assert not (place / "p.csv").exists()


def test_a_complete_file_is_not_overwritten(place, capsys):
    predict(place, "p.csv")
    before = (place / "p.csv").read_bytes()
    assert predict(place, "p.csv") == 2
    assert "another --out" in capsys.readouterr().err
    assert (place / "p.csv").read_bytes() == before
    assert predict(place, "p.txt") == 2
    assert predict(place, "nowhere/p.csv") == 2
    assert (
        f"{place}/nowhere/p.csv can't be written: No such file or directory. Make the folder" in capsys.readouterr().err
    )


def test_top_leaves_the_best_classes(place):
    assert predict(place, "p.csv", "--top", "2", inputs=["photos/a.png"]) == 0
    row = rows_of(place / "p.csv")[0]
    assert list(row)[3:6] == ["top_2", "top_2_probability", "unsure"]
    assert float(row["probability"]) >= float(row["top_2_probability"])
    assert predict(place, "p.jsonl", "--top", "2", inputs=["photos/a.png"]) == 0
    assert len(json.loads((place / "p.jsonl").read_text())["probabilities"]) == 2


def test_parquet_has_typed_columns(place):
    predict(place, "p.parquet")
    table = pq.read_table(place / "p.parquet").to_pydict()
    assert table["error"][0] is None
    assert table["error"][1]
    assert table["p_cat"][1] is None
    assert isinstance(table["unsure"][0], bool)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "-"])
def test_lists_and_tables_name_files(place, monkeypatch, kind):
    names = ["f.png", "a.png", "f.png"]
    listed = place / "photos" / f"list.{kind}"
    if kind == "parquet":
        import pyarrow as pa

        pq.write_table(pa.table({"file_name": names}), listed)
    elif kind == "jsonl":
        listed.write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    elif kind == "-":
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{place}/photos/{name}\n" for name in names)))
    else:
        mark = "," if kind == "csv" else "\t"
        listed.write_text(
            "\ufeff" + "\n".join(["x" + mark + "file_name", *(f"1{mark}{name}" for name in names)]) + "\n"
        )
    assert predict(place, "p.jsonl", inputs=["-" if kind == "-" else listed]) == 0
    found = [json.loads(line)["file"] for line in (place / "p.jsonl").read_text().splitlines()]
    assert found == [str(place / "photos" / name) for name in names]


def test_a_table_without_the_column_names_those_it_has(place, capsys):
    (place / "photos" / "t.csv").write_bytes("picture,label\na.png,häuser\n".encode("latin-1"))
    assert predict(place, "p.csv", inputs=["photos/t.csv"]) == 2
    told = capsys.readouterr().err
    assert "--image-column" in told
    assert "picture, label" in told
    assert not (place / "p.csv").exists()
    assert predict(place, "p.csv", "--image-column", "picture", inputs=["photos/t.csv"]) == 0
    assert [Path(row["file"]).name for row in rows_of(place / "p.csv")] == ["a.png"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_that_are_no_text_are_written_as_text(place, kind):
    (place / "photos" / "a.png").rename(place / "photos" / os.fsdecode(b"\xe9.png"))
    assert predict(place, f"p.{kind}") == 1
    whole = (place / f"p.{kind}").read_bytes()
    if kind == "parquet":
        files = pq.read_table(place / "p.parquet")["file"].to_pylist()
    elif kind == "csv":
        files = [row["file"] for row in csv.DictReader(io.StringIO(whole.decode()))]
    else:
        files = [json.loads(line)["file"] for line in whole.decode().splitlines()]
    assert str(place / "photos" / r"\xe9.png") in files


def test_names_on_standard_input_need_not_be_text(place, monkeypatch, capsys):
    name = b"%s/\xe9.png" % os.fsencode(place)
    (place / "photos" / "a.png").rename(os.fsdecode(name))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(name), encoding="utf-8"))
    assert predict(place, "p.csv", inputs=["-"]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    assert predict(place, "q.csv", inputs=["-"]) == 2
    sys.stdin.close()
    assert "no image" in capsys.readouterr().err


def test_an_empty_name_is_no_folder(place, capsys):
    assert main(["predict", str(place / "model"), ""]) == 2
    assert "Argument 3 is empty" in capsys.readouterr().err


def test_predictions_among_the_images_are_not_taken_for_images_or_their_table(place):
    for name in ("cat", "dog"):
        (place / "classes" / name).mkdir(parents=True)
        shutil.copy(place / "photos" / "a.png", place / "classes" / name)
    for kind in ("csv", "jsonl", "parquet"):
        assert predict(place, f"classes/p.{kind}", inputs=["classes"]) == 0
    found = discover(place / "classes", Columns(), on_bad="fail", terminal=Terminal(enabled=False))
    assert [(file.path, file.label) for file in found.files] == [("cat/a.png", "cat"), ("dog/a.png", "dog")]


def test_nothing_to_predict_leaves_no_file(place):
    (place / "empty").mkdir()
    assert predict(place, "p.csv", inputs=["empty"]) == 2
    assert not list(place.glob("*p.csv*"))
