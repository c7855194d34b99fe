"""The whole state of a fine-tuning: what a checkpoint holds, and how training resumes from one.

Tensors are named ``model.*``, ``best.*``, ``ema.*`` and ``optimizer.<parameter's number>.*``. The numbers are those of
``Progress``, and under ``scaler`` those of fp16's gradient scaler.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.training.checkpoint import (
    Checkpoint,
    read_checkpoints,
    under_prefix,
    with_prefix,
    write_checkpoint,
)
from headstart.training.learner import Learner
from headstart.training.progress import Progress

logger = logging.getLogger(__name__)
_SLOTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""


def save_state(learner: Learner, progress: Progress, best: Mapping[str, Tensor], folder: Path, *, step: int) -> None:
    """Write a checkpoint; the main process does that for all.

    Raises:
        TrainingError: It could not be written.
    """
    if not learner.processes.is_main:
        return
    tensors = with_prefix("model", learner.module.state_dict()) | with_prefix("best", best)
    if learner.average is not None:
        tensors |= with_prefix("ema", learner.average.state_dict())
    for number, slots in learner.optimization.optimizer.state_dict()["state"].items():
        tensors |= with_prefix(f"optimizer.{number}", slots)
    numbers = asdict(progress) | {"scaler": learner.optimization.scaler.state_dict()}
    write_checkpoint(folder, step=step, tensors=tensors, numbers=numbers)


def restore_state(learner: Learner, folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Load the newest checkpoint that fits this training, and nothing of one that does not.

    Returns:
        The numbers and the best epoch's state dict; None where no checkpoint fits, so that training starts at its
        beginning.
    """
    for checkpoint in read_checkpoints(folder):
        try:
            numbers = dict(checkpoint.numbers)
            scaler = numbers.pop("scaler", {})
            progress = Progress.from_numbers(numbers)
            _check_scaler(learner, scaler)
            _check_tensors(learner, checkpoint.tensors)
        except (ValueError, TypeError, OverflowError) as error:
            logger.warning("Checkpoint %s does not fit this training and is passed over: %s", checkpoint.path, error)
            continue
        _load(learner, checkpoint, scaler)
        return progress, under_prefix("best", checkpoint.tensors)
    return None


def _load(learner: Learner, checkpoint: Checkpoint, scaler: dict[str, Any]) -> None:
    learner.module.load_state_dict(under_prefix("model", checkpoint.tensors))
    if learner.average is not None:
        learner.average.load_state_dict(under_prefix("ema", checkpoint.tensors))
    if scaler:
        learner.optimization.scaler.load_state_dict(scaler)
    _load_optimizer(learner.optimization.optimizer, under_prefix("optimizer", checkpoint.tensors))


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, slot = name.partition(".")
        like = parameters[int(number)]
        # The moments must lie in memory as their parameter does, or later sums round differently.
        moved = tensor if slot == "step" else torch.empty_like(like).copy_(tensor)
        state.setdefault(int(number), {})[slot] = moved
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _check_tensors(learner: Learner, found: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are those that ``save_state`` would write, by name, shape and type."""
    expected = with_prefix("model", learner.module.state_dict()) | with_prefix("best", learner.module.state_dict())
    if learner.average is not None:
        expected |= with_prefix("ema", learner.average.state_dict())
    # Before the first step the optimizer remembers nothing.
    if any(name.startswith("optimizer.") for name in found):
        groups = learner.optimization.optimizer.param_groups
        for number, parameter in enumerate(parameter for group in groups for parameter in group["params"]):
            slots = (torch.zeros(()), parameter, parameter)
            expected |= with_prefix(f"optimizer.{number}", dict(zip(_SLOTS, slots, strict=True)))
    if different := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"{len(different)} tensors are missing or unknown, e.g. {different[0]}")
    for name, like in expected.items():
        if (found[name].shape, found[name].dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"{name} is {tuple(found[name].shape)} {found[name].dtype}, expected {tuple(like.shape)} {like.dtype}"
            )


def _check_scaler(learner: Learner, found: Any) -> None:
    """Raise ValueError unless these are the numbers of this training's scaler: none but in fp16."""
    expected = learner.optimization.scaler.state_dict()
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError(f"its scaler holds {found}, expected the keys {sorted(expected)}")
    if not all(isinstance(value, (int, float)) for value in found.values()):
        raise ValueError(f"its scaler holds {found}, expected numbers")
