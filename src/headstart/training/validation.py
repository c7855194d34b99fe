"""How good a network is on the validation split, while it is being trained."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.compute.precision import Arithmetic, autocast
from headstart.compute.processes import Processes
from headstart.contracts import Validated
from headstart.data.batches import evaluation_batches
from headstart.tasks.measures import mean_recall
from headstart.tasks.metrics import are_uneven
from headstart.training.material import Material

Validate: TypeAlias = Callable[[nn.Module], Validated]
"""From a network to how good it is on the validation split."""


def validator(material: Material, arithmetic: Arithmetic, processes: Processes) -> Validate:
    """Return what tells how good a network is on the validation split.

    Every process must call it; the main one computes and tells the others.
    """
    labels = material.val.labels
    uneven = are_uneven(np.bincount(material.train.labels))

    @torch.inference_mode()
    def measure(module: nn.Module) -> tuple[float, float, float]:
        module.eval()
        loss, right = 0.0, []
        batches = evaluation_batches(material.val, material.preprocess, batch_size=64, device=material.device)
        for images, targets in batches:
            with autocast(material.device, arithmetic.precision):
                logits = module(images.contiguous(memory_format=arithmetic.torch_format)).float()
            loss += F.cross_entropy(logits, targets, reduction="sum").item()
            right.append((logits.argmax(1) == targets).cpu().numpy())
        hits = np.concatenate(right)
        return loss / len(labels), int(hits.sum()) / len(labels), mean_recall(hits, labels)

    def validate(module: nn.Module) -> Validated:
        found = torch.tensor(measure(module) if processes.is_main else (0.0, 0.0, 0.0), dtype=torch.float64)
        loss, accuracy, balanced = processes.sum(found).tolist()
        return Validated(loss, accuracy, balanced if uneven else None)

    return validate
