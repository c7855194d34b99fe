"""The learning rate, as a function of the step alone: nothing to save, nothing to restore."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Learning rate at each step.

    Attributes:
        peak: Highest learning rate.
        steps: Optimizer steps of the whole training.
        warmup: Share of the steps in which the rate rises linearly.
        decay: ``cosine`` falls to zero after the rise (Loshchilov and Hutter 2017, SGDR); ``constant`` stays.
    """

    peak: float
    steps: int
    warmup: float
    decay: Literal["cosine", "constant"]

    def rate(self, step: int) -> float:
        """Return the learning rate of an optimizer step, counted from 0 over the whole training."""
        return self.peak * self._factor(step)

    def _factor(self, step: int) -> float:
        rise = max(1, round(self.warmup * self.steps)) if self.warmup else 0
        if step < rise:
            return (step + 1) / rise
        if self.decay == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))
