"""Copies are made here from real pictures in the ways in which data sets come by them, and must be found again."""

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from headstart.data.arrays import blocks, image_hashes
from headstart.data.near_copies import PIXEL_THRESHOLD, luma_squares, pixel_correlation, similar_pairs
from headstart.inspection.duplicates import exact_duplicates, feature_directions, likeness_to_class, near_duplicates


@pytest.fixture(scope="module")
def pictures(sample):
    """60 different real pictures, six of each class."""
    rows = np.concatenate([np.flatnonzero(sample.train.labels == label)[:6] for label in range(10)])
    return np.array(sample.train.source.array[rows])


def altered(pixels, how):
    picture = Image.fromarray(pixels)
    changed = {
        "brighter": lambda: ImageEnhance.Brightness(picture).enhance(1.3),
        "flatter": lambda: ImageEnhance.Contrast(picture).enhance(0.6),
        "grey": lambda: picture.convert("L").convert("RGB"),
        "mirrored": lambda: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "shifted": lambda: picture.crop((3, 2, 35, 34)),
        "enlarged": lambda: picture.resize((32, 32), Image.Resampling.BICUBIC, box=(2, 2, 30, 30)),
        "reduced": lambda: framed(picture),
    }[how]()
    return np.asarray(changed)


def framed(picture):
    frame = Image.new("RGB", (32, 32), (120, 120, 120))
    frame.paste(picture.resize((28, 28), Image.Resampling.BICUBIC), (2, 2))
    return frame


def correlations(first, second):
    squares = luma_squares([np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])])
    return pixel_correlation(squares, np.arange(2 * len(first)).reshape(-1, 2))


def test_exact_copies_are_grouped(pictures):
    images = pictures[[0, 1, 2, 1, 3, 0, 1]]
    assert exact_duplicates(image_hashes(images)) == [(0, 5), (1, 3, 6)]
    assert exact_duplicates(image_hashes(pictures)) == []


@pytest.mark.parametrize("how", ["brighter", "flatter", "grey", "mirrored", "shifted", "enlarged", "reduced"])
def test_the_pixels_of_a_changed_copy_agree(pictures, how):
    copies = np.stack([altered(picture, how) for picture in pictures])
    found = correlations(pictures, copies)
    assert (found >= PIXEL_THRESHOLD).mean() >= 0.9
    assert found.max() <= 1 + 1e-4


def test_the_pixels_of_different_pictures_do_not_agree(pictures):
    found = correlations(pictures, np.roll(pictures, 7, axis=0))
    assert (found < PIXEL_THRESHOLD).all()


def test_the_order_of_a_pair_makes_no_difference(pictures):
    copies = np.stack([altered(picture, "enlarged") for picture in pictures])
    assert np.allclose(correlations(pictures, copies), correlations(copies, pictures), atol=1e-5)


def test_pictures_of_a_single_colour_agree_with_nothing(pictures):
    blank = np.full_like(pictures[:3], 200)
    assert (correlations(blank, pictures[:3]) < 0.5).all()
    assert (correlations(blank, blank) < 0.5).all()


def test_near_duplicates_are_proposed_by_features_or_outlines_and_confirmed_by_pixels(pictures):
    copies = np.stack([altered(pictures[0], "brighter"), altered(pictures[1], "shifted")])
    squares = luma_squares([np.concatenate([pictures, copies])])
    directions = np.eye(len(squares), dtype=np.float32)
    directions[5] = directions[9]  # alike in features only
    directions[61] = directions[1]  # found by its features alone
    # 60 is found by its outline alone: its features say otherwise.
    told = []

    @contextmanager
    def bar(title, total):
        told.append([title, total, 0])
        yield lambda count: told[-1].__setitem__(2, told[-1][2] + count)

    found = near_duplicates(directions, squares, bar=bar)
    assert {(pair.first, pair.second) for pair in found} == {(0, 60), (1, 61)}
    assert {pair.first: round(pair.feature_similarity) for pair in found} == {0: 0, 1: 1}
    assert found[0].pixel_similarity >= PIXEL_THRESHOLD
    assert told[0] == ["Comparing features", 124, 124]
    assert told[1][1] == told[1][2]


def test_near_duplicates_come_most_alike_first(pictures):
    copies = np.stack([altered(pictures[0], "enlarged"), pictures[1], altered(pictures[2], "shifted")])
    squares = luma_squares([np.concatenate([pictures[:3], copies])])
    directions = np.tile(np.eye(3, 8, dtype=np.float32), (2, 1))
    found = near_duplicates(directions, squares, pixel_threshold=0.5)
    assert {(pair.first, pair.second) for pair in found} == {(0, 3), (1, 4), (2, 5)}
    likeness = [pair.pixel_similarity for pair in found]
    assert likeness == sorted(likeness, reverse=True)
    assert (found[0].first, found[0].second) == (1, 4)


def test_similar_pairs_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr("headstart.data.near_copies._ENTRIES", 700)  # several blocks
    vectors = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, cosines = similar_pairs(vectors, threshold=0.8, neighbors=100)
    whole = np.triu(vectors @ vectors.T, 1)
    expected = np.argwhere(whole >= 0.8)
    assert len(expected) > 50
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    assert np.allclose(cosines, whole[rows[:, 0], rows[:, 1]], atol=1e-6)


def test_a_pair_is_kept_for_the_nearest_neighbour_of_either():
    angles = np.array([0.0, 0.3, 0.1, 0.22])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows, _ = similar_pairs(vectors, threshold=0.5, neighbors=1)
    # Nearest to 0 is 2, to 1 is 3, to 2 is 0, to 3 is 1.
    assert sorted(map(tuple, rows.tolist())) == [(0, 2), (1, 3)]
    rows, _ = similar_pairs(vectors, threshold=0.5, neighbors=2)
    assert sorted(map(tuple, rows.tolist())) == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_directions_keep_what_varies_most_and_forget_the_mean():
    generator = np.random.default_rng(1)
    features = (generator.normal(size=(300, 6)) * (10, 8, 6, 0.01, 0.01, 0.01) + 100).astype(np.float32)
    directions = feature_directions([features], components=3)
    assert directions.shape == (300, 3)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    centred = features - features.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(directions @ directions.T, centred @ centred.T, atol=0.02)


def test_directions_are_those_of_the_first_split_alone():
    generator = np.random.default_rng(2)
    train, test = (generator.normal(size=(n, 6)).astype(np.float32) for n in (80, 20))
    together = feature_directions([train, test], components=4)
    assert np.array_equal(together[:80], feature_directions([train], components=4))
    assert np.allclose(feature_directions([train, test + 50], components=4)[:80], together[:80])


def test_equal_features_have_no_direction():
    assert np.array_equal(feature_directions([np.ones((4, 5), dtype=np.float32)], components=2), np.zeros((4, 2)))


def test_squares_are_luma_and_larger_pictures_are_reduced(pictures):
    squares = luma_squares(blocks(pictures))
    assert squares.shape == (60, 32, 32)
    assert squares.dtype == np.uint8
    larger = [np.kron(picture, np.ones((3, 2, 1), dtype=np.uint8))[None] for picture in pictures]
    assert np.array_equal(luma_squares(larger), squares)


def test_the_outlier_of_a_class_is_least_like_it():
    directions = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    likeness = likeness_to_class(directions, np.array([0, 0, 0, 1, 1, 2]))
    assert likeness == pytest.approx([0.8944, 0.8944, 0.6, 1, 1, 1], abs=1e-4)
    assert likeness.argmin() == 2
    assert likeness[5] == 1  # alone in its class


def test_of_images_that_are_all_alike_the_nearest_are_kept(monkeypatch):
    """Nearly every pair is above the threshold, and only so many of each row are looked at."""
    monkeypatch.setattr("headstart.data.near_copies._ENTRIES", 3000)
    vectors = 1 + np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) / 10
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, cosines = similar_pairs(vectors, threshold=0.5, neighbors=4)
    whole = vectors @ vectors.T
    np.testing.assert_allclose(cosines, whole[rows[:, 0], rows[:, 1]], atol=1e-6)
    # Of each row's later ones the 32 nearest; of these what is among the four nearest of either.
    kept = [(i, int(j)) for i in range(200) for j in i + 1 + np.argsort(-whole[i, i + 1 :])[:32]]
    ranked = {
        row: sorted((pair for pair in kept if row in pair), key=lambda pair: -whole[pair])[:4] for row in range(200)
    }
    expected = {pair for pairs in ranked.values() for pair in pairs}
    assert set(map(tuple, rows.tolist())) == expected


ALIKE = """
import numpy as np
from headstart.compute.memory import peak_memory_mb
from headstart.compute.startup import prepare_command

prepare_command()
from headstart.data.near_copies import similar_pairs

generator = np.random.default_rng(0)
directions = np.eye(2, 8, dtype=np.float32)[np.arange(12_000) % 2]
directions += generator.normal(size=directions.shape).astype(np.float32) / 50
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
before = peak_memory_mb()
similar_pairs(directions, threshold=0.6)
print(round(peak_memory_mb() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much memory was used at most")
def test_images_that_are_all_alike_take_no_more_memory_than_others():
    done = subprocess.run([sys.executable, "-c", ALIKE], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 500
