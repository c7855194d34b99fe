"""How much each class counts in the loss."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from headstart.data.batches import check_classes
from headstart.data.subset import Subset


def class_weights(weights: Literal["balanced"] | Mapping[str, float] | None, train: Subset) -> Tensor | None:
    """Return the loss weight of each class, shape (classes,), or None for equal weights.

    Args:
        weights: ``balanced`` for inverse class frequencies with mean 1 over the images, as in scikit-learn; or a weight
            by class name, 1 where a name is missing.
        train: Images that are trained on.

    Raises:
        RecipeError: A name is not one of the classes.
    """
    if weights is None:
        return None
    names = train.class_names
    if weights == "balanced":
        counts = np.bincount(train.labels, minlength=len(names))
        return torch.tensor(len(train) / (len(names) * counts), dtype=torch.float32)
    check_classes("finetune.class_weights", weights, names)
    return torch.tensor([weights.get(name, 1.0) for name in names])
