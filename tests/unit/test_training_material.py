"""What a run works with: images at the sizes that it needs, fitted to squares as its recipe says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.contracts import ClassNames
from headstart.data.dataset import Dataset, SealedTest
from headstart.data.sources.memory import ArraySource
from headstart.data.subset import Subset
from headstart.errors import DataError
from headstart.recipe.schema import load_recipe
from headstart.training.material import prepare, split_checked, working_sides

NAMES = ClassNames(("cat", "dog"))
RECIPE = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "probe": {"size": 20},
    "finetune": {"schedule": [{"epochs": 1, "size": 16}, {"epochs": 1, "size": 28}], "batch_size": 4},
    "evaluation": {"size": 24},
}


@pytest.fixture
def dataset():
    images = np.random.default_rng(0).integers(0, 256, (40, 40, 60, 3), dtype=np.uint8)
    source = ArraySource(images, np.arange(40, dtype=np.int64) % 2, NAMES)
    train, test = Subset(source, np.arange(30), "train"), Subset(source, np.arange(30, 40), "test")
    return Dataset("wide", train, SealedTest(test), NAMES, "ab" * 32, "a test")


def test_images_are_kept_as_large_as_some_part_of_the_run_needs_them():
    assert working_sides(load_recipe(RECIPE)) == (28, 24)
    assert working_sides(load_recipe(RECIPE, {"probe.size": 40})) == (40, 24)
    assert working_sides(load_recipe(RECIPE, {"probe.size": 40, "probe.solver": "adam"})) == (40, 40)
    assert working_sides(load_recipe(RECIPE, {"finetune": None, "probe.size": 40, "weights": "auto"})) == (40, 24)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_the_recipe_says_how_images_are_fitted(own_home, dataset, fit):
    material = prepare(load_recipe(RECIPE, {"fit": fit}), dataset, torch.device("cpu"), progress=False)
    assert (material.preprocess.fit, material.preprocess.size) == (fit, 24)
    assert (len(material.train), len(material.val)) == (27, 3)
    assert material.train.stacks[0].shape == (27, 28, 28, 3)
    assert material.val.stacks[0].shape == (3, 24, 24, 3)
    expected = material.preprocess.square(material.val.subset.image(1))
    seen = material.val.stacks[0][material.val.place[[1]]][0]
    assert np.array_equal(seen, expected), "validation sees what a prediction will see"


def test_a_data_set_without_an_image_to_validate_on_is_refused(dataset):
    empty = Subset(dataset.train.source, np.array([], np.int64), "val")
    with pytest.raises(DataError, match=r"no image to validate on in wide.*Add images"):
        split_checked(load_recipe(RECIPE), replace(dataset, val=empty))
