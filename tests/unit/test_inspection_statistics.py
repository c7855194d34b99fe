"""Counts and moments against their plain definitions on floating-point copies, which the code itself never makes."""

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.data.arrays import blocks
from headstart.inspection.statistics import describe, luminance, scale

NAMES = ClassNames(("cat", "dog"))


def random_images(n, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def described(sample):
    return describe(blocks(sample.train.source.array), sample.train.labels, sample.class_names)


def test_moments_equal_those_of_a_floating_point_copy(sample, described):
    images = np.asarray(sample.train.source.array, dtype=np.float64)
    found = described.as_dict()
    assert (found["mean"], found["std"]) == (round(images.mean(), 2), round(images.std(), 2))
    assert (found["min"], found["max"]) == (images.min(), images.max())
    scaled = images / 255
    assert (found["scaled"]["mean"], found["scaled"]["std"]) == (round(scaled.mean(), 4), round(scaled.std(), 4))
    assert (found["scaled"]["min"], found["scaled"]["max"]) == (scaled.min(), scaled.max())
    for channel, name in enumerate(("red", "green", "blue")):
        assert found["channels"][name]["mean"] == round(images[..., channel].mean(), 2)
        assert found["scaled"]["channels"][name]["std"] == round(scaled[..., channel].std(), 4)


def test_shares_and_histograms_count_every_value(sample, described):
    images, found = np.asarray(sample.train.source.array), described.as_dict()
    assert found["near_black_share"] == round(float((images <= 10).mean()), 6)
    assert found["near_white_share"] == round(float((images >= 245).mean()), 6)
    assert sum(found["histograms"]["overall"]) == images.size
    assert found["histograms"]["green"] == np.bincount(images[..., 1].ravel(), minlength=256).tolist()


def test_shape_labels_and_classes_are_told(sample, described):
    found = described.as_dict()
    assert found["n"] == 500
    assert found["shape"] == [32, 32, 3]
    assert found["sizes"] == {"32x32x3": 500}
    assert found["dtype"] == "uint8"
    assert found["labels"] == {"shape": [500], "dtype": "int64", "min": 0, "max": 9}
    assert found["class_counts"] == dict.fromkeys(sample.class_names, 50)


def test_a_mean_image_is_that_of_its_class(sample, described):
    of_ships = np.asarray(sample.train.source.array)[sample.train.labels == sample.class_names.index("ship")]
    assert np.allclose(described.mean_images[sample.class_names.index("ship")], of_ships.mean(axis=0))


def test_brightness_and_contrast_are_those_of_each_image(sample, described):
    luma = np.asarray(sample.train.source.array[7], dtype=np.float64) @ (0.299, 0.587, 0.114)
    assert described.brightness[7] == pytest.approx(luma.mean(), abs=1e-2)
    assert described.contrast[7] == pytest.approx(luma.std(), abs=1e-2)
    found = described.as_dict()
    assert sum(found["brightness"]["histogram"]) == sum(found["contrast"]["histogram"]) == 500
    assert found["brightness"]["min"] <= found["brightness"]["p5"] <= found["brightness"]["median"]


def test_the_size_of_the_blocks_makes_no_difference(sample):
    images, labels = np.asarray(sample.train.source.array[:50]), sample.train.labels[:50]
    whole = describe([images], labels, sample.class_names).as_dict()
    parts = describe(np.split(images, [1, 20]), labels, sample.class_names).as_dict()
    assert parts == whole


def test_images_of_a_single_colour_are_listed():
    images = random_images(5)
    images[1] = 255
    images[4] = (10, 20, 30)
    images[2] = 7
    images[2, 3, 3, 1] = 8
    found = describe([images[:2], images[2:]], np.array([0, 1, 0, 1, 0]), NAMES).as_dict()
    assert found["constant"] == {"n": 2, "rows": [1, 4]}


def test_pictures_of_different_sizes_come_one_by_one():
    pictures = [random_images(1, side) for side in (8, 8, 12)]
    described = describe(pictures, np.array([0, 1, 1]), NAMES)
    found = described.as_dict()
    assert found["shape"] is None
    assert found["sizes"] == {"8x8x3": 2, "12x12x3": 1}
    assert described.mean_images is None
    values = np.concatenate([picture.ravel() for picture in pictures])
    assert found["mean"] == round(values.astype(np.float64).mean(), 2)


def test_a_class_without_images_has_no_mean_image():
    described = describe([random_images(3)], np.array([0, 0, 0]), NAMES)
    assert described.class_counts == {"cat": 3, "dog": 0}
    assert np.isnan(described.mean_images[1]).all()


def test_every_possible_value_is_finite_after_scaling():
    values = scale(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (values[0], values[255]) == (0.0, 1.0)
    images = np.arange(256 * 3, dtype=np.int64).astype(np.uint8).reshape(1, 16, 16, 3)
    scaled = describe([images], np.array([0]), NAMES).as_dict()["scaled"]
    assert (scaled["nan"], scaled["inf"], scaled["dtype"], scaled["divisor"]) == (0, 0, "float32", 255)


def test_brightness_is_that_of_pillow():
    from PIL import Image

    images = random_images(1, side=32)
    expected = np.asarray(Image.fromarray(images[0]).convert("L"), dtype=np.float32)
    assert np.abs(luminance(images)[0] - expected).max() <= 1


def test_parts_of_a_block_change_nothing(monkeypatch):
    images, labels = random_images(40), np.arange(40) % 2
    whole = describe([images], labels, NAMES)
    monkeypatch.setattr("headstart.inspection.statistics._VALUES", 1000)
    parts = describe([images], labels, NAMES)
    assert parts.as_dict() == whole.as_dict()
    np.testing.assert_array_equal(parts.brightness, whole.brightness)
    np.testing.assert_array_equal(parts.mean_images, whole.mean_images)


def test_mean_images_of_many_classes_take_a_bounded_amount_of_memory():
    names = ClassNames(tuple(f"class {i}" for i in range(1000)))
    images = random_images(4, side=224)
    found = describe([images], np.array([0, 1, 54, 999]), names)
    assert found.mean_images.shape == (55, 224, 224, 3)
    np.testing.assert_array_equal(found.mean_images[54], images[2])
    assert found.class_counts["class 999"] == 1
