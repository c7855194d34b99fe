"""The fine-tuning loop: step, record, validate, save; nothing in it is hidden."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from headstart.contracts import EpochRecord
from headstart.data.batches import Batch, TrainingBatches
from headstart.errors import StoppedError, TrainingError
from headstart.training.checkpoint import (
    newest_checkpoint,
    read_checkpoint,
    under_prefix,
    with_prefix,
    write_checkpoint,
)


@dataclass
class Progress:
    """Every number that a fine-tuning remembers from step to step."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    epoch_seconds: float = 0.0
    total_seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    history: list[EpochRecord] = field(default_factory=list)

    def start_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.step, self.loss_sum, self.correct, self.seen, self.epoch_seconds = 0, 0.0, 0, 0, 0.0

    def improves(self, accuracy: float, loss: float) -> bool:
        """Return whether a validation result beats the best so far; equal accuracies are settled by the loss."""
        return (accuracy, -loss) > (self.best_accuracy, -self.best_loss)

    @property
    def images_per_second(self) -> float:
        """Training images that passed through the network, over all epochs."""
        images = sum(record.images_per_second * record.seconds for record in self.history)
        return images / max(self.total_seconds, 1e-9)


@dataclass(frozen=True)
class Training:
    """What is trained, and with what; ``accelerator.prepare`` has been called.

    Attributes:
        accelerator: Device, precision and processes.
        module: The classifier itself.
        prepared: The same, or what follows its frozen stages, as the accelerator wraps it.
        optimizer: As the accelerator wraps it; each group holds ``lr_scale``.
        average: Moving average of the weights, or None.
        set_training_mode: Puts the module into training mode, but for what is frozen.
        memory_format: Of the images.
    """

    accelerator: Accelerator
    module: nn.Module
    prepared: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    set_training_mode: Callable[[nn.Module], None]
    memory_format: torch.memory_format

    @property
    def result(self) -> nn.Module:
        """The weights that are validated and kept."""
        return self.average.module if self.average is not None else self.module


def moving_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of weights and buffers, or None where ``decay`` is 0."""
    if not decay:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def fine_tune(
    training: Training,
    batches: TrainingBatches,
    *,
    lr: float,
    rate_factor: Callable[[int], float],
    validate: Callable[[nn.Module], tuple[float, float]],
    before: tuple[float, float],
    label_smoothing: float,
    class_weights: Tensor | None,
    clip_norm: float,
    patience: int,
    checkpoints: Path,
    checkpoint_seconds: float,
    on_step: Callable[[Progress], None],
    on_epoch: Callable[[Progress], None],
) -> tuple[dict[str, Tensor], Progress]:
    """Train to the end, going on from the newest good checkpoint where there is one.

    Args:
        training: Network, optimiser, average.
        batches: Of every epoch.
        lr: Peak learning rate.
        rate_factor: Factor on ``lr`` at a step.
        validate: Returns (loss, accuracy) of a network on the validation split.
        before: What ``validate`` says of the network as it comes in, which is kept if no epoch does better.
        label_smoothing: Share of each target that is spread over all classes.
        class_weights: Loss weight of each class, shape (classes,), or None.
        clip_norm: Largest norm of the gradient; 0 for any.
        patience: Epochs without a better validation result before stopping early; 0 never stops.
        checkpoints: Folder.
        checkpoint_seconds: Between checkpoints inside an epoch.
        on_step: Called after every step.
        on_epoch: Called after every epoch, once its record is in the history.

    Returns:
        The best epoch's state dict by validation, on the CPU, and the numbers of the whole training. Epoch 0 is
        the network as it came in.

    Raises:
        TrainingError: The loss is no longer finite, or a checkpoint could not be written.
        StoppedError: Ctrl-C or SIGTERM; a checkpoint was written first.
    """
    progress, best = _restore(training, checkpoints) or _start(training, before)
    epochs = len(batches.sizes)
    with _stop_requests() as stop_requested:
        while progress.epoch < epochs and not _is_stale(progress, patience):
            training.set_training_mode(training.prepared)
            saved = started = time.monotonic()
            for batch in batches.epoch(progress.epoch, start=progress.step):
                global_step = progress.epoch * batches.steps_per_epoch + batch.step
                _set_rate(training.optimizer, lr * rate_factor(global_step))
                loss, correct = _step(training, batch, label_smoothing, class_weights, clip_norm, progress.epoch)
                progress.step = batch.step + 1
                progress.loss_sum += loss * len(batch.rows)
                progress.correct += correct
                progress.seen += len(batch.rows)
                now = time.monotonic()
                progress.epoch_seconds += now - started
                started = now
                on_step(progress)
                if stop_requested() or now - saved > checkpoint_seconds:
                    _save(training, progress, best, checkpoints, batches.steps_per_epoch)
                    saved = time.monotonic()
                if stop_requested():
                    raise _stopped(progress, checkpoints)
            last_rate = lr * rate_factor((progress.epoch + 1) * batches.steps_per_epoch - 1)
            best = _finish_epoch(training, batches, progress, best, validate, last_rate)
            on_epoch(progress)
            progress.start_epoch()
            _save(training, progress, best, checkpoints, batches.steps_per_epoch)
            # During validation too somebody may have asked for it.
            if stop_requested():
                raise _stopped(progress, checkpoints)
    return best, progress


def _stopped(progress: Progress, checkpoints: Path) -> StoppedError:
    where = f"epoch {progress.epoch + 1}, step {progress.step}" if progress.step else f"epoch {progress.epoch}"
    return StoppedError(
        f"Stopped after {where}; nothing is lost. Go on with: headstart train --resume {checkpoints.parent}"
    )


def _step(
    training: Training,
    batch: Batch,
    label_smoothing: float,
    class_weights: Tensor | None,
    clip_norm: float,
    epoch: int,
) -> tuple[float, int]:
    accelerator, images = training.accelerator, batch.images
    # Frozen stages may end after pooling, where there is no memory format to choose.
    laid_out = images.contiguous(memory_format=training.memory_format) if images.dim() == 4 else images
    with accelerator.autocast():
        logits = training.prepared(laid_out)
    # The loss is computed in full precision whatever the network's is.
    loss = F.cross_entropy(logits.float(), batch.targets, weight=class_weights, label_smoothing=label_smoothing)
    value = loss.item()
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss is {value} at epoch {epoch + 1}, step {batch.step + 1}: {_cause(batch, logits)}. "
            "The last checkpoint is good."
        )
    accelerator.backward(loss)
    if clip_norm:
        accelerator.clip_grad_norm_(training.prepared.parameters(), clip_norm)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average is not None:
        training.average.update_parameters(training.module)
    return value, int((logits.argmax(1) == batch.labels).sum())


def _cause(batch: Batch, logits: Tensor) -> str:
    if not torch.isfinite(batch.images).all():
        return "what the network was given holds values that are not finite"
    if not torch.isfinite(logits).all():
        return "the network's outputs are no longer finite; a smaller finetune.lr or a longer finetune.warmup helps"
    return "the loss itself overflows; check finetune.class_weights"


def _finish_epoch(
    training: Training,
    batches: TrainingBatches,
    progress: Progress,
    best: dict[str, Tensor],
    validate: Callable[[nn.Module], tuple[float, float]],
    learning_rate: float,
) -> dict[str, Tensor]:
    val_loss, val_accuracy = validate(training.result)
    images_per_second = progress.seen * batches.processes / max(progress.epoch_seconds, 1e-9)
    progress.total_seconds += progress.epoch_seconds
    progress.history.append(
        EpochRecord(
            epoch=progress.epoch + 1,
            train_loss=progress.loss_sum / progress.seen,
            train_accuracy=progress.correct / progress.seen,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            # Not as the optimiser has it: resumed after the epoch's last step, that has not been set yet.
            learning_rate=learning_rate * max(group["lr_scale"] for group in training.optimizer.param_groups),
            image_size=batches.sizes[progress.epoch],
            seconds=progress.epoch_seconds,
            images_per_second=images_per_second,
        )
    )
    if not progress.improves(val_accuracy, val_loss):
        return best
    progress.best_epoch, progress.best_accuracy, progress.best_loss = (
        progress.epoch + 1,
        val_accuracy,
        val_loss,
    )
    return _snapshot(training.result)


def _start(training: Training, before: tuple[float, float]) -> tuple[Progress, dict[str, Tensor]]:
    loss, accuracy = before
    return Progress(best_epoch=0, best_loss=loss, best_accuracy=accuracy), _snapshot(training.module)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _is_stale(progress: Progress, patience: int) -> bool:
    return bool(patience) and progress.epoch - progress.best_epoch >= patience


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _save(training: Training, progress: Progress, best: dict[str, Tensor], folder: Path, steps_per_epoch: int) -> None:
    if not training.accelerator.is_main_process:
        return
    tensors = with_prefix("model", training.module.state_dict()) | with_prefix("best", best)
    if training.average is not None:
        tensors |= with_prefix("ema", training.average.state_dict())
    for number, slots in training.optimizer.state_dict()["state"].items():
        tensors |= with_prefix(f"optimizer.{number}", slots)
    step = progress.epoch * steps_per_epoch + progress.step
    write_checkpoint(folder, step=step, tensors=tensors, numbers=asdict(progress))


def _restore(training: Training, folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    path = newest_checkpoint(folder)
    if path is None:
        return None
    tensors, numbers = read_checkpoint(path)
    training.module.load_state_dict(under_prefix("model", tensors))
    if training.average is not None:
        training.average.load_state_dict(under_prefix("ema", tensors))
    _restore_optimizer(training.optimizer, under_prefix("optimizer", tensors))
    numbers["history"] = [EpochRecord(**row) for row in numbers["history"]]
    return Progress(**numbers), under_prefix("best", tensors)


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, slot = name.partition(".")
        like = parameters[int(number)]
        # The moments must lie in memory as their parameter does, or later sums round differently.
        moved = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(number), {})[slot] = moved
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a request to stop at the next step; a second one stops at once."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    previous = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        requested.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
