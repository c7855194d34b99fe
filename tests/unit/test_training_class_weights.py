from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.errors import RecipeError
from headstart.training.class_weights import class_weights


def test_balanced_weights_are_scikit_learns(sample):
    from sklearn.utils.class_weight import compute_class_weight

    uneven = replace(sample.train, rows=sample.train.rows[:77])
    expected = compute_class_weight("balanced", classes=np.arange(10), y=uneven.labels)
    assert class_weights("balanced", uneven).tolist() == pytest.approx(expected.tolist())


def test_named_weights(sample):
    weights = class_weights({"cat": 3.0}, sample.train)
    assert weights[sample.class_names.index("cat")] == 3
    assert weights.sum() == 12
    assert class_weights(None, sample.train) is None
    assert isinstance(weights, torch.Tensor)


def test_an_unknown_class_is_named(sample):
    with pytest.raises(RecipeError, match=r"'lion'.*airplane"):
        class_weights({"lion": 2.0}, sample.train)
