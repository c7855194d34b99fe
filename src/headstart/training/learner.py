"""A network and everything that one step of its training needs."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from headstart.compute.precision import Arithmetic, autocast
from headstart.compute.processes import ALONE, Processes
from headstart.data.batches import Batch
from headstart.models.freeze import set_training_mode
from headstart.training.average import MovingAverage
from headstart.training.objective import Objective
from headstart.training.optimization import Optimization


class Step(NamedTuple):
    """What a step leaves behind, in the order in which ``Learner.step`` packs it; each a mean or sum over the batch.

    Attributes:
        loss: Loss that was minimized.
        plain_loss: Mean cross-entropy without label smoothing and class weights, in nats.
        correct: Images that were classified correctly.
        finite_outputs: 1 where all logits were finite, else 0.
    """

    loss: float
    plain_loss: float
    correct: float
    finite_outputs: float


@dataclass(frozen=True)
class Learner:
    """A network and everything that one step of its training needs.

    Attributes:
        module: Classifier.
        trained: What a batch runs through: the classifier, or the part after its frozen stages; compiled and
            distributed where that was asked for.
        objective: Loss.
        optimization: What moves the weights.
        average: Moving average of the weights, or None.
        arithmetic: Precision and memory format of the steps.
        freeze_batch_norm: Whether batch norms keep their statistics.
        processes: Processes that share a batch.
    """

    module: nn.Module
    trained: nn.Module
    objective: Objective
    optimization: Optimization
    average: MovingAverage | None
    arithmetic: Arithmetic
    freeze_batch_norm: bool = True
    processes: Processes = ALONE

    @property
    def result(self) -> nn.Module:
        """Network that is validated and kept."""
        return self.average.module if self.average is not None else self.module

    def start(self) -> None:
        """Put the network into training mode."""
        set_training_mode(self.trained, freeze_batch_norm=self.freeze_batch_norm)

    def step(self, batch: Batch) -> Tensor:
        """Train on a batch and return the fields of ``Step``, shape (4,); nothing here waits for the device."""
        images = batch.images
        # Frozen stages may end after pooling, where there is no memory format to choose.
        laid_out = images.contiguous(memory_format=self.arithmetic.torch_format) if images.dim() == 4 else images
        with self.processes.connected():
            with autocast(images.device, self.arithmetic.precision):
                logits = self.trained(laid_out)
            # The loss is computed in full precision whatever the network's is.
            logits = logits.float()
            loss = self.objective.loss(logits, batch.targets)
            self.optimization.step(loss, self.trained.parameters())
        if self.average is not None:
            self.average.update(self.module)
        return self._record(loss.detach(), logits.detach(), batch)

    def _record(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        plain = loss if self.objective.is_plain else self.objective.plain_loss(logits, batch.targets)
        correct = (logits.argmax(1) == batch.labels).sum()
        return torch.stack([loss, plain, correct.float(), torch.isfinite(logits).all().float()])
