"""The learning rate, as a function of the step alone: nothing to save, nothing to restore."""

import math
from typing import Literal


def rate_factor(step: int, *, steps: int, warmup: float, decay: Literal["cosine", "constant"]) -> float:
    """Return the factor on the peak learning rate at ``step``.

    Args:
        step: Optimiser step, from 0.
        steps: In the whole training.
        warmup: Share of the steps with a linear rise.
        decay: ``cosine`` falls to zero after the rise (Loshchilov and Hutter 2017, SGDR); ``constant`` stays.
    """
    rise = max(1, round(warmup * steps)) if warmup else 0
    if step < rise:
        return (step + 1) / rise
    if decay == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
