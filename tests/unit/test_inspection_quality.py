"""Images with one thing wrong each are found for that and for nothing they have not."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from headstart.contracts import ClassNames
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.inspection.quality import find_quality_issues, measure


@pytest.fixture(scope="module")
def sharp(sample_arrays):
    return sample_arrays.train_images[:40].copy()


def issues_of(images):
    split = Subset.whole(ArraySource(images, np.zeros(len(images), np.int64), ClassNames(("a", "b"))), "train")
    found = find_quality_issues([split], [split.blocks()])
    return {name: [image["row"] for image in images] for name, images in found["issues"].items()}


def test_each_issue_is_found_where_it_is(sharp):
    before = issues_of(sharp)
    images = sharp.copy()
    images[0] = images[0] // 10
    images[1] = 252
    images[2] = np.asarray(Image.fromarray(images[2]).filter(ImageFilter.GaussianBlur(4)))
    after = issues_of(images)
    assert 0 in after["dark"]
    assert 0 not in before["dark"]
    assert 1 in after["bright"]
    assert 1 in after["low_information"]
    assert 2 in after["blurred"]
    assert 2 not in before["blurred"]
    assert after["odd_size"] == after["odd_aspect"] == []


def test_few_ordinary_images_have_an_issue(sharp):
    found = issues_of(sharp)
    assert len({row for rows in found.values() for row in rows}) <= 4


def test_odd_sizes_and_shapes_are_told_from_the_sizes_of_all():
    generator = np.random.default_rng(0)
    sizes = [(100 + i, 120) for i in range(20)] + [(1000, 1200), (10, 300)]
    images = [generator.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in sizes]
    measured = measure(images)
    assert all(len(values) == 22 for values in measured.values())

    small = [generator.integers(0, 256, (1, 20, 20, 3), dtype=np.uint8) for _ in sizes]
    source = SimpleNamespace(sizes=np.array(sizes)[:, ::-1])
    names, rows = ClassNames(("a", "b")), np.arange(22)
    split = SimpleNamespace(source=source, name="train", class_names=names, rows=rows, labels=np.zeros(22, np.int64))
    issues = find_quality_issues([split], [small])["issues"]
    assert [image["row"] for image in issues["odd_aspect"]] == [21]
    assert next(image["row"] for image in issues["odd_size"]) == 20


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (1, 2000)])
def test_the_smallest_images_are_measured(size):
    measured = measure([np.full((2, *size, 3), 128, np.uint8)])
    assert all(np.isfinite(values).all() and len(values) == 2 for values in measured.values())
    assert measured["low_information"].max() <= 0.16


def test_entropy_is_that_of_pillow():
    image = np.random.default_rng(0).integers(0, 40, (1, 30, 20, 3), dtype=np.uint8)
    assert measure([image])["low_information"][0] == pytest.approx(Image.fromarray(image[0]).entropy() / 10, abs=1e-6)
