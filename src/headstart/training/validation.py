"""How good a network is on the validation split, while it is being trained."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from headstart.compute.precision import Arithmetic, autocast
from headstart.compute.processes import Processes
from headstart.data.batches import evaluation_batches
from headstart.training.material import Material

Validate: TypeAlias = Callable[[nn.Module], tuple[float, float]]
"""From a network to (mean cross-entropy in nats, accuracy) on the validation split."""


def validator(material: Material, arithmetic: Arithmetic, processes: Processes) -> Validate:
    """Return what tells how good a network is on the validation split.

    Every process must call it; the main one computes and tells the others.
    """

    @torch.inference_mode()
    def measure(module: nn.Module) -> tuple[float, float]:
        module.eval()
        loss, correct = 0.0, 0
        batches = evaluation_batches(material.val, material.preprocess, batch_size=64, device=material.device)
        for images, labels in batches:
            with autocast(material.device, arithmetic.precision):
                logits = module(images.contiguous(memory_format=arithmetic.torch_format)).float()
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
        return loss / len(material.val), correct / len(material.val)

    def validate(module: nn.Module) -> tuple[float, float]:
        found = torch.tensor(measure(module) if processes.is_main else (0.0, 0.0), dtype=torch.float64)
        loss, accuracy = processes.sum(found).tolist()
        return loss, accuracy

    return validate
