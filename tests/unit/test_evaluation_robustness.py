"""Figures of corrupted images: counted rightly, on images drawn fairly, and never before they may be."""

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.preprocess import Preprocess
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import InputError
from headstart.evaluation.corruptions import CORRUPTIONS
from headstart.evaluation.robustness import (
    contact_sheet,
    headline,
    measure_corruptions,
    sample_size,
    stratified_rows,
    summary,
)
from headstart.runs.run import Run


def made_dataset(n):
    names = ClassNames(("cat", "dog"))
    split = Subset.whole(ArraySource(np.zeros((n, 8, 8, 3), np.uint8), np.arange(n) % 2, names), "test")
    return Dataset("animals", split, SealedTest(split), names, "ab" * 32, "a test")


def test_the_sample_is_a_thousand_or_all_there_is_and_the_seal_stays(monkeypatch):
    monkeypatch.setattr(SealedTest, "open", lambda _: pytest.fail("the test split was opened"))
    assert sample_size(None, made_dataset(5000)) == 1000
    assert sample_size(None, made_dataset(30)) == 30
    assert sample_size(7, made_dataset(30)) == 7
    for wanted in (31, 0):
        with pytest.raises(InputError, match="Allowed: 1 to 30"):
            sample_size(wanted, made_dataset(30))


def test_every_class_has_its_share_of_the_sample():
    labels = np.array([0] * 700 + [1] * 200 + [2] * 100)
    np.random.default_rng(0).shuffle(labels)
    rows = stratified_rows(labels, 100, seed=0)
    assert np.bincount(labels[rows]).tolist() == [70, 20, 10]
    assert len(set(rows.tolist())) == 100
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, stratified_rows(labels, 100, seed=0))
    assert (rows != stratified_rows(labels, 100, seed=1)).any()
    np.testing.assert_array_equal(stratified_rows(labels, 1000, seed=0), np.arange(1000))
    assert len(stratified_rows(labels, 3, seed=0)) == 3


def test_the_figures_are_means_of_the_hits():
    hits = np.zeros((len(CORRUPTIONS), 5, 4), bool)
    hits[:, 0] = True  # severity 1 does no harm
    hits[list(CORRUPTIONS).index("fog"), :, 0] = True  # and one picture is seen through any fog
    figures = summary(np.array([True, True, True, False]), hits)
    assert figures["clean_accuracy"] == 0.75
    assert figures["by_severity"][0] == 1
    assert figures["by_severity"][1] == pytest.approx(0.25 / len(CORRUPTIONS), abs=1e-6)
    assert figures["categories"]["noise"] == [1, 0, 0, 0, 0]
    assert figures["categories"]["weather"] == [1, 0.125, 0.125, 0.125, 0.125]
    assert figures["corruptions"]["fog"] == {"category": "weather", "accuracy": [1, 0.25, 0.25, 0.25, 0.25]}
    assert figures["accuracy"] == pytest.approx(hits.mean(), abs=1e-6)
    assert figures["relative_accuracy"] == pytest.approx(hits.mean() / 0.75, abs=1e-6)
    low, high = figures["accuracy_ci95"]
    assert low < figures["accuracy"] < high
    assert set(headline(figures)) == {"n", "clean_accuracy", "accuracy", "accuracy_ci95", "relative_accuracy"}


def test_a_classifier_that_knows_nothing_has_no_relative_accuracy():
    figures = summary(np.array([False]), np.zeros((len(CORRUPTIONS), 5, 1), bool))
    assert figures["relative_accuracy"] is None
    assert figures["accuracy_ci95"] == [0, 1]


def test_a_few_images_that_are_always_right_show_no_certainty():
    figures = summary(np.ones(10, bool), np.ones((len(CORRUPTIONS), 5, 10), bool))
    assert figures["accuracy_ci95"] == pytest.approx([0.722, 1], abs=1e-3)  # Wilson's for 10 of 10


def test_the_contact_sheet_has_a_row_for_each_corruption(sample_arrays):
    assert contact_sheet(sample_arrays.test_images[0]).shape == (len(CORRUPTIONS) * 32, 5 * 32, 3)
    assert contact_sheet(np.zeros((400, 200, 3), np.uint8)).shape == (len(CORRUPTIONS) * 96, 5 * 48, 3)


@pytest.mark.parametrize("sizes", [(32,), (32, 24)])
def test_images_of_any_sizes_are_corrupted_as_the_network_gets_them(tmp_path, monkeypatch, sizes):
    class Sizes:
        """A source like a folder of files, whose images have sizes of their own."""

        array = groups = None
        classes, targets = ClassNames(("dark", "light")), np.arange(20) % 2

        def __len__(self):
            return 20

        def identity(self, row):
            return f"{row:064}"

        def image(self, row, **_):
            side = sizes[row // 2 % len(sizes)]
            return images[row, :side, :side]

    images = np.zeros((20, 32, 32, 3), np.uint8)
    images[1::2] = 255
    split = Subset.whole(Sizes(), "test")
    dataset = Dataset("animals", split, SealedTest(split), Sizes.classes, "ab" * 32, "a test")

    class Light:
        preprocess = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

        def logits(self, squares, progress=None):
            light = squares.reshape(len(squares), -1).mean(axis=1) - 127
            progress(len(squares), len(squares))
            return np.stack([-light, light], axis=1)

    monkeypatch.setattr("headstart.evaluation.robustness.load", lambda *_, **__: Light())
    seen = []
    found = measure_corruptions(Run(tmp_path), dataset, images=10, progress=lambda *done: seen.append(done))
    assert found["clean_accuracy"] == 1.0
    assert all(row["accuracy"][0] == 1.0 for row in found["corruptions"].values() if row["category"] == "noise")
    assert seen[-1] == (10 * (1 + 5 * len(CORRUPTIONS)),) * 2
    assert Run(tmp_path).corruptions().accuracy == found["accuracy"]
