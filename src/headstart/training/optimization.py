"""How a step moves the weights: learning rate, scaled gradients, clipping, AdamW."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart.compute.precision import Precision
from headstart.training.schedule import Schedule


@dataclass(frozen=True)
class Optimization:
    """How a step moves the weights. Nothing here waits for the device.

    Attributes:
        optimizer: AdamW; each of its groups holds the ``lr_scale`` of its layer.
        scaler: Scales the loss of fp16 so that small gradients survive; does nothing in other precisions.
        schedule: Learning rate at each step.
        clip_norm: Largest norm of the whole gradient; 0 for any.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    clip_norm: float

    def set_rate(self, step: int) -> None:
        """Set the learning rate of each group for a step, counted from 0 over the whole training."""
        rate = self.schedule.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def largest_rate(self, step: int) -> float:
        """Return the learning rate at a step of the group that learns fastest: the head."""
        scales: list[float] = [group["lr_scale"] for group in self.optimizer.param_groups]
        return self.schedule.rate(step) * max(scales)

    def step(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Move the weights once against the gradient of ``loss``, and drop the gradient."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def adamw(
    groups: list[dict[str, Any]], schedule: Schedule, *, clip_norm: float, precision: Precision, device: torch.device
) -> Optimization:
    """Return an optimization with AdamW, whose whole step is one kernel per group."""
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Optimization(torch.optim.AdamW(groups, fused=True), scaler, schedule, clip_norm)
