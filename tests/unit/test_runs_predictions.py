"""What predictions.csv holds, for few classes and for many, and that odd names survive it."""

import csv
import io

import numpy as np
import pytest

from headstart.contracts import ClassNames, Predictions
from headstart.errors import RunError
from headstart.runs.predictions import MOST_CLASSES_IN_COLUMNS, TestPredictions, parse_predictions
from headstart.runs.run import Run


def made(names, n=6, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(len(names)) * 0.3, size=n).astype(np.float32)
    labels = generator.integers(0, len(names), n)
    hashes = [f"{row:064x}" for row in range(n)]
    return TestPredictions(np.arange(n), hashes, labels, Predictions(probabilities, ClassNames(tuple(names))))


def lines(predictions):
    return list(csv.DictReader(io.StringIO(predictions.to_csv(), newline="")))


def test_up_to_fifty_classes_have_a_column_each():
    predictions = made([f"class {i}" for i in range(MOST_CLASSES_IN_COLUMNS)])
    first = lines(predictions)[0]
    assert list(first)[:5] == ["row", "sha256", "label", "predicted", "probability"]
    assert list(first)[5:] == [*(f"p_class {i}" for i in range(50)), "unsure", "unfamiliar", "novelty"]
    assert float(first["p_class 3"]) == pytest.approx(predictions.predictions.probabilities[0, 3], abs=1e-6)
    assert predictions.to_npz() is None


def test_of_many_classes_the_csv_has_the_best_five_and_a_file_beside_it_has_all(tmp_path):
    predictions = made([f"class {i}" for i in range(51)], n=40)
    Run(tmp_path).write_predictions(predictions)
    whole = predictions.predictions.probabilities
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as stored:
        np.testing.assert_allclose(stored["probabilities"], whole, atol=5.1e-5, rtol=1e-3)
        assert stored["classes"].tolist() == list(predictions.class_names)
        assert stored["row"].tolist() == list(range(40))
    for i, line in enumerate(lines(predictions)):
        assert set(line) == {
            *("row", "sha256", "label", "predicted", "probability", "label_probability"),
            *("unsure", "unfamiliar", "novelty"),
            *(f"top_{place}{what}" for place in range(2, 6) for what in ("", "_probability")),
        }
        best = np.argsort(-whole[i], kind="stable")[:5]
        told = [line["predicted"], *(line[f"top_{place}"] for place in range(2, 6))]
        assert told == [predictions.class_names[int(index)] for index in best]
        assert float(line["label_probability"]) == pytest.approx(whole[i, predictions.labels[i]], abs=1e-6)
    assert [row.predicted for row in Run(tmp_path).predictions()] == predictions.predictions.labels


def test_fifty_thousand_images_of_a_thousand_classes_stay_small(tmp_path):
    """A twentieth of them, of a classifier that is sure of nothing, which compresses worst."""
    generator = np.random.default_rng(0)
    weights = np.exp(generator.normal(size=(2500, 1000)))
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    names = ClassNames(tuple(f"a class of some length, {i}" for i in range(1000)))
    hashes = [generator.bytes(32).hex() for _ in range(2500)]
    predictions = TestPredictions(np.arange(2500), hashes, np.zeros(2500, np.int64), Predictions(probabilities, names))
    Run(tmp_path).write_predictions(predictions)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 60_000_000 / 20


ODD = ("=cmd|' /C calc'!A0", "+1", "-1", "@sum", "'=x", "''", 'a "quoted", name', "sea, ice", "'tis", "кошка")


def test_odd_names_come_back_and_no_cell_is_a_formula():
    predictions = made(ODD, n=60)
    text = predictions.to_csv()
    rows = parse_predictions(text)
    assert [row.label for row in rows] == [ODD[int(i)] for i in predictions.labels]
    assert [row.predicted for row in rows] == predictions.predictions.labels
    assert {row.label for row in rows} | {row.predicted for row in rows} == set(ODD)
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_names_of_older_runs_with_line_separators_are_read():
    text = 'row,sha256,label,predicted,probability\n0,aa,sea\u2028ice,a\x85b,0.5\n1,ab,"c\rd","e\nf",0.5\n'
    assert [(row.label, row.predicted) for row in parse_predictions(text)] == [
        ("sea\u2028ice", "a\x85b"),
        ("c\rd", "e\nf"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "row,label\n1,cat\n",
        "row,sha256,label,predicted,probability\n",
        "row,sha256,label,predicted,probability\n1,a,cat,dog,much\n",
        "row,sha256,label,predicted,probability\n1,a,cat,dog,nan\n",
        "row,sha256,label,predicted,probability\n1,a,cat,dog,1.5\n",
        "row,sha256,label,predicted,probability\n1.5,a,cat,dog,0.5\n",
        "row,sha256,label,predicted,probability\n1,a,cat\n",
        'row,sha256,label,predicted,probability\n1,a,"cat,dog,0.5\n',
        "row,sha256,label,predicted,probability\n1,a," + "x" * (2**24 + 1) + ",dog,0.5\n",
        "\0\0\0",
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "predictions.csv").write_text(content, newline="")
    with pytest.raises(RunError, match=r"predictions\.csv"):
        Run(tmp_path).predictions()
