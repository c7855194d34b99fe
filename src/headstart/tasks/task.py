"""What a task decides: how a classifier learns, which epoch is kept, what its outputs mean and how it is measured."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headstart.tasks.metrics import Metric, SplitMetrics


class Task(Protocol):
    """The one place that knows what is predicted."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured, in the order in which it is shown."""

    def loss(
        self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean training loss of a batch, in nats."""

    def probabilities(self, logits: NDArray[np.floating[Any]], *, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return the probabilities that logits of shape (n, classes) stand for."""

    def calibrate(self, logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
        """Return the temperature, fitted on validation."""

    def measure(
        self,
        logits: NDArray[np.floating[Any]],
        labels: NDArray[np.int64],
        *,
        names: Sequence[str],
        temperature: float = 1.0,
        given: NDArray[np.float32] | None = None,
    ) -> SplitMetrics:
        """Return the figures of one split; ``given`` are the probabilities that the classifier itself computed."""
