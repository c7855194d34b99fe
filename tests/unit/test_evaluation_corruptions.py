"""Each corruption does what its name says, more of it at a higher severity, and the same every time."""

import numpy as np
import pytest
import torch

from headstart.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

PUBLISHED = {"noise": 3, "blur": 2, "weather": 2, "digital": 4}


@pytest.fixture(scope="module")
def images(sample_arrays):
    return sample_arrays.test_images[:40]


def change(images, name, severity):
    """Root of the mean squared change of a pixel, 0-255."""
    spoilt = corrupt(images, name, severity, seed=0)
    return float(((spoilt.astype(float) - images) ** 2).mean() ** 0.5)


def test_there_are_four_categories_with_five_severities_each():
    categories = [corruption.category for corruption in CORRUPTIONS.values()]
    assert {category: categories.count(category) for category in categories} == PUBLISHED
    assert {len(corruption.settings) for corruption in CORRUPTIONS.values()} == {len(SEVERITIES)}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_pictures_are_spoilt_the_same_way_every_time_and_nothing_else_changes(images, name):
    before, state = images.copy(), torch.random.get_rng_state()
    first, second = (corrupt(images, name, 3, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first.dtype, first.shape) == (np.uint8, images.shape)
    assert (first != images).any(axis=(1, 2, 3)).all(), "every picture is changed"


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "elastic"])
def test_a_higher_severity_changes_more(images, name):
    # Elastic trades a random shift of the whole for bends, so its pixels change less while its shapes change more.
    changes = [change(images, name, severity) for severity in (1, 3, 5)]
    assert changes == sorted(changes)
    assert changes[0] > 1
    assert changes[2] > 1.2 * changes[0]


RANDOM = {"Gaussian noise", "shot noise", "impulse noise", "motion blur", "fog", "elastic"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_what_is_random(images, name):
    differs = (corrupt(images, name, 2, seed=0) != corrupt(images, name, 2, seed=1)).any()
    assert differs == (name in RANDOM)


def test_the_noise_is_as_strong_as_it_says():
    grey = np.full((20, 64, 64, 3), 128, np.uint8)
    assert change(grey, "Gaussian noise", 5) == pytest.approx(0.10 * 255, rel=0.03)
    assert change(grey, "shot noise", 5) == pytest.approx(255 * (128 / 255 / 50) ** 0.5, rel=0.03)
    hit = corrupt(grey, "impulse noise", 5, seed=0)
    assert (hit == 0).mean() == pytest.approx(0.035, rel=0.1)
    assert (hit == 255).mean() == pytest.approx(0.035, rel=0.1)
    assert set(np.unique(hit)) == {0, 128, 255}


def test_brightness_is_added_and_contrast_taken_away():
    black = np.zeros((1, 8, 8, 3), np.uint8)
    assert np.unique(corrupt(black, "brightness", 4, seed=0)).tolist() == [51]
    red = np.full((1, 8, 8, 3), (100, 60, 0), np.uint8)
    assert corrupt(red, "brightness", 4, seed=0)[0, 0, 0].tolist() == [151, 91, 0], "the hue stays"
    half = np.zeros((1, 8, 8, 3), np.uint8)
    half[:, :4] = 200
    assert np.unique(corrupt(half, "contrast", 5, seed=0)).tolist() == [85, 115]


def test_blur_leaves_a_flat_picture_alone_and_keeps_the_mean():
    flat = np.full((2, 32, 32, 3), 90, np.uint8)
    for name in ("Gaussian blur", "motion blur", "elastic", "pixelate"):
        np.testing.assert_array_equal(corrupt(flat, name, 5, seed=0), flat)
    dot = np.zeros((1, 33, 33, 3), np.uint8)
    dot[:, 16, 16] = 255
    for name in ("Gaussian blur", "motion blur"):
        spread = corrupt(dot, name, 3, seed=0)
        assert spread.max() < 200
        assert float(spread[..., 0].sum()) == pytest.approx(255, rel=0.1)


def test_lengths_grow_with_the_picture(images):
    """A picture of twice the side is blurred as much to the eye: its halved version is that of the small one."""
    large = images[:8].repeat(2, axis=1).repeat(2, axis=2)

    def seen(pictures):
        return pictures.reshape(8, 32, 2, 32, 2, 3).mean(axis=(2, 4))

    small = corrupt(images[:8], "Gaussian blur", 5, seed=0).astype(float)
    assert np.abs(seen(corrupt(large, "Gaussian blur", 5, seed=0)) - small).mean() < 2


@pytest.mark.parametrize("shape", [(7, 5), (33, 64), (1, 1)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_pictures_of_any_shape_are_taken(name, shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    assert corrupt(images, name, 5, seed=0).shape == images.shape


def test_what_is_made_in_parts_differs_from_part_to_part():
    grey = np.full((500, 4, 4, 3), 128, np.uint8)
    noisy = corrupt(grey, "Gaussian noise", 5, seed=0)
    assert (noisy[:250] != noisy[250:]).any()
