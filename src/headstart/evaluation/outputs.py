"""What a classifier gives for a split, refused where it is not finite."""

import numpy as np

from headstart.data.subset import Subset
from headstart.data.working_copy import working_copy
from headstart.errors import HeadstartError
from headstart.inference.artifact import Outputs
from headstart.inference.predictor import Predictor, Progress


def finite_outputs(
    predictor: Predictor, split: Subset, progress: Progress | None = None, *, features: bool = False
) -> Outputs:
    """Return the classifier's outputs for a split, with what the head sees where that is asked for.

    Raises:
        HeadstartError: Some are not finite.
    """
    outputs = predictor.outputs(working_copy(split, predictor.preprocess), features=features, progress=progress)
    bad = np.flatnonzero(~outputs.finite)
    if len(bad):
        raise HeadstartError(
            f"The classifier's outputs are not finite for {len(bad)} of {len(split)} {split.name} images, "
            f"first for row {split.rows[bad[0]]}. Train again, with a lower learning rate or in fp32."
        )
    return outputs
