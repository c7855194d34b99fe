"""The loss that a step minimizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.compute.processes import ALONE, Processes
from headstart.tasks.single_label import SINGLE_LABEL
from headstart.tasks.task import Task


@dataclass(frozen=True)
class Objective:
    """The task's loss with label smoothing and class weights.

    Attributes:
        label_smoothing: Share of each target that is spread over all classes.
        class_weights: Weight of each class in the loss, shape (classes,); None for equal weights.
        task: What is predicted.
        processes: Processes that share a batch.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    task: Task = SINGLE_LABEL
    processes: Processes = ALONE

    @property
    def is_plain(self) -> bool:
        """Whether this is the task's loss without smoothing and weights."""
        return not self.label_smoothing and self.class_weights is None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch: a mean over its images, in which each counts with the weight of its target.

        Args:
            logits: Shape (n, classes).
            targets: Class indices of shape (n,), or probabilities of shape (n, classes).
        """
        weights = self.class_weights
        loss = self.task.loss(logits, targets, label_smoothing=self.label_smoothing, class_weights=weights)
        if weights is None or self.processes.world == 1:
            return loss
        # Gradients are averaged over the processes, whose shares of the batch may weigh differently.
        total = (targets @ weights if targets.dim() == 2 else weights[targets]).sum()
        return loss * (total * self.processes.world / self.processes.sum(total))

    @torch.no_grad()
    def plain_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss without smoothing and weights: the figure that validation has too."""
        return self.task.loss(logits, targets)
