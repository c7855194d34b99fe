"""Copies are planted among real images in the ways in which data sets come by them, and must be found again."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from headstart.data.near_copies import luma_squares, near_copies

HOW = ["resized", "enlarged", "recompressed", "cropped", "brightened", "mirrored"]


def altered(pixels, how):
    image = Image.fromarray(pixels)
    if how == "recompressed":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        image = Image.open(file).convert("RGB")
    changed = {
        "resized": lambda: image.resize((24, 24), Image.Resampling.BICUBIC),
        "enlarged": lambda: image.resize((80, 80), Image.Resampling.BICUBIC),
        "recompressed": lambda: image,
        "cropped": lambda: image.crop((2, 0, 32, 30)),
        "brightened": lambda: ImageEnhance.Brightness(image).enhance(1.3),
        "mirrored": lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }[how]()
    return np.asarray(changed)


@pytest.fixture(scope="module")
def images(sample):
    return np.array(sample.train.source.array)


@pytest.mark.parametrize("how", HOW)
def test_planted_copies_are_found_and_little_else(images, how):
    copies = [altered(image, how)[None] for image in images[:60]]
    pairs, correlations = near_copies(luma_squares([images, *copies]))
    found = set(map(tuple, pairs.tolist()))
    planted = {(row, len(images) + row) for row in range(60)}
    assert len(planted & found) >= 58
    assert len(found - planted) <= 3
    assert correlations.min() >= 0.8
    assert pairs.tolist() == sorted(pairs.tolist())


def test_blank_images_are_no_copies_and_no_images_have_none():
    blank = np.full((9, 40, 50, 3), 200, np.uint8)
    assert near_copies(luma_squares([blank]))[0].shape == (0, 2)
    assert near_copies(luma_squares([]))[0].shape == (0, 2)


def test_the_order_of_images_decides_nothing(images):
    chosen = np.concatenate([images[:100], images[:100, :, ::-1]])
    order = np.random.default_rng(0).permutation(200)
    plain, _ = near_copies(luma_squares([chosen]))
    shuffled, _ = near_copies(luma_squares([chosen[order]]))
    assert set(map(frozenset, plain.tolist())) == set(map(frozenset, order[shuffled].tolist()))
    assert len(plain) >= 98
