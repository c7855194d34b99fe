"""Images that look least like the rest of their class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.subset import Subset
from headstart.inspection.duplicates import likeness_to_class

OUTLIERS_OF_A_CLASS = 5


def find_outliers(train: Subset, directions: NDArray[np.float32]) -> dict[str, list[dict[str, Any]]]:
    """Return for each class the training images that are least like the rest of it."""
    likeness = likeness_to_class(directions, train.labels)
    return {
        name: [
            {"split": train.name, "row": int(train.rows[i]), "likeness": round(float(likeness[i]), 4)}
            for i in _least(likeness, np.flatnonzero(train.labels == index))
        ]
        for index, name in enumerate(train.class_names)
    }


def _least(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.argsort(values[rows], kind="stable")[:OUTLIERS_OF_A_CLASS]]
