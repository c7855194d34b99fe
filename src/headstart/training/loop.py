"""The fine-tuning loop: step, record, validate, save; nothing in it is hidden."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from headstart.contracts import Validated
from headstart.data.batches import TrainingBatches, prepared_ahead
from headstart.errors import StoppedError, TrainingError
from headstart.training.checkpoint import describe_newest
from headstart.training.learner import Learner, Step
from headstart.training.progress import Progress
from headstart.training.state import restore_state, save_state
from headstart.wording import typed

READ_EVERY = 20
"""Steps between two looks at what a GPU has computed. Each look waits for it; in between it works ahead."""


@dataclass(frozen=True)
class Selection:
    """How the epoch to keep is chosen.

    Attributes:
        validate: Measures a network on the validation split, the same in every process.
        before: What ``validate`` says of the network as it comes in, which is kept if no epoch does better.
        patience: Epochs without a better validation result before training stops early; 0 never stops.
    """

    validate: Callable[[nn.Module], Validated]
    before: Validated
    patience: int = 0


@dataclass(frozen=True)
class Checkpoints:
    """Where and when the state of a training is saved.

    Attributes:
        folder: Folder of the checkpoints, inside the run's.
        seconds: Seconds between checkpoints inside an epoch; one is written after every epoch as well.
    """

    folder: Path
    seconds: float


def fine_tune(
    learner: Learner,
    batches: TrainingBatches,
    selection: Selection,
    checkpoints: Checkpoints,
    *,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[Progress], None] = lambda _: None,
) -> tuple[dict[str, Tensor], Progress]:
    """Train to the end, from the newest good checkpoint on where there is one.

    ``on_step`` is called with the numbers so far, after every step on a CPU and every ``READ_EVERY`` steps elsewhere;
    ``on_epoch`` after every epoch, once its record is in the history.

    Returns:
        The best epoch's state dict by validation, on the CPU, and the numbers of the whole training. Epoch 0 is the
        network as it came in.

    Raises:
        TrainingError: The loss is no longer finite, a checkpoint could not be written, or another process failed.
        StoppedError: Ctrl-C or SIGTERM reached one of the processes; a checkpoint was written first.
    """
    progress, best = restore_state(learner, checkpoints.folder) or _start(learner, selection.before)
    _check_same_start(learner, progress, batches, checkpoints)
    with _stop_requests() as stop_requested:
        while progress.epoch < len(batches.sizes) and not progress.is_stale(selection.patience):
            for due in _train_epoch(learner, batches, progress, checkpoints, stop_requested):
                on_step(progress)
                if due:
                    _save(learner, progress, best, batches, checkpoints)
                    _stop_if(stop_requested, learner, progress, checkpoints)
            if _finish_epoch(learner, batches, progress, selection):
                best = _snapshot(learner.result)
            on_epoch(progress)
            progress.start_epoch()
            _save(learner, progress, best, batches, checkpoints)
            # During validation too somebody may have asked for it.
            _stop_if(stop_requested, learner, progress, checkpoints)
    return best, progress


def _train_epoch(
    learner: Learner,
    batches: TrainingBatches,
    progress: Progress,
    checkpoints: Checkpoints,
    stop_requested: Callable[[], bool],
) -> Iterator[bool]:
    """Take the epoch's remaining steps; yield whenever their numbers were read, and whether a checkpoint is due."""
    learner.start()
    read_every = 1 if batches.device.type == "cpu" else READ_EVERY
    pending: list[Tensor] = []
    saved = started = time.monotonic()
    coming = batches.epoch(progress.epoch, start=progress.step)
    # On a CPU a thread would only take the cores from the network: both compute there.
    for batch in coming if batches.device.type == "cpu" else prepared_ahead(coming):
        learner.optimization.set_rate(progress.epoch * batches.steps_per_epoch + batch.step)
        # Whatever a layer draws in this step follows from here, however many steps came before.
        torch.manual_seed(batch.seed)
        pending.append(learner.step(batch))
        due = learner.processes.any(stop_requested() or time.monotonic() - saved > checkpoints.seconds)
        if due or len(pending) == read_every or batch.step + 1 == batches.steps_per_epoch:
            _read(pending, learner, batches, progress, checkpoints)
            pending = []
            now = time.monotonic()
            progress.epoch_seconds += now - started
            started = now
            yield due
            saved = time.monotonic() if due else saved


def _read(
    pending: list[Tensor], learner: Learner, batches: TrainingBatches, progress: Progress, checkpoints: Checkpoints
) -> None:
    """Add the numbers of the steps since the last look to ``progress``; waits for the device.

    Raises:
        TrainingError: A loss was not finite; ``progress`` is then as it was before that step.
    """
    for numbers in learner.processes.sum(torch.stack(pending)).tolist():
        step = Step(*numbers)
        if not math.isfinite(step.loss):
            raise TrainingError(
                f"The loss is {step.loss} at epoch {progress.epoch + 1}, step {progress.step + 1}: "
                f"{_cause(step, learner, batches, progress)}. {describe_newest(checkpoints.folder)}"
            )
        share = batches.batch_size // learner.processes.world
        progress.step += 1
        progress.loss_sum += step.plain_loss * share
        progress.correct += int(step.correct)
        progress.seen += batches.batch_size


def _cause(step: Step, learner: Learner, batches: TrainingBatches, progress: Progress) -> str:
    # The batch itself is gone by now; made again it is the same.
    batch = next(batches.epoch(progress.epoch, start=progress.step))
    if learner.processes.any(not bool(torch.isfinite(batch.images).all())):
        return "what the network was given holds values that are not finite"
    if step.finite_outputs < learner.processes.world:
        return "the network's outputs are no longer finite; a smaller finetune.lr or a longer finetune.warmup helps"
    return "the loss itself overflows; check finetune.class_weights"


def _finish_epoch(learner: Learner, batches: TrainingBatches, progress: Progress, selection: Selection) -> bool:
    """Validate, record the epoch, and return whether it is the best so far."""
    last_step = (progress.epoch + 1) * batches.steps_per_epoch - 1
    return progress.finish_epoch(
        val=selection.validate(learner.result),
        learning_rate=learner.optimization.largest_rate(last_step),
        image_size=batches.sizes[progress.epoch],
    )


def _start(learner: Learner, before: Validated) -> tuple[Progress, dict[str, Tensor]]:
    return Progress(best_loss=before.loss, best_accuracy=before.score[0]), _snapshot(learner.module)


def _check_same_start(learner: Learner, progress: Progress, batches: TrainingBatches, checkpoints: Checkpoints) -> None:
    """Raise TrainingError where the processes would start from different steps."""
    step = torch.tensor(progress.epoch * batches.steps_per_epoch + progress.step)
    # Equal numbers have no variance.
    total, squares = learner.processes.sum(torch.stack([step, step * step])).tolist()
    if total * total != squares * learner.processes.world:
        raise TrainingError(
            f"The processes do not find the same checkpoint in {checkpoints.folder}. Put the run on a file system that "
            "all of them share."
        )


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _save(
    learner: Learner,
    progress: Progress,
    best: dict[str, Tensor],
    batches: TrainingBatches,
    checkpoints: Checkpoints,
) -> None:
    step = progress.epoch * batches.steps_per_epoch + progress.step
    save_state(learner, progress, best, checkpoints.folder, step=step)


def _stop_if(
    stop_requested: Callable[[], bool], learner: Learner, progress: Progress, checkpoints: Checkpoints
) -> None:
    """Raise StoppedError where any process was asked to stop."""
    if not learner.processes.any(stop_requested()):
        return
    where = f"epoch {progress.epoch + 1}, step {progress.step}" if progress.step else f"epoch {progress.epoch}"
    again = typed("train", "--resume", checkpoints.folder.parent)
    raise StoppedError(f"Stopped after {where}; nothing is lost. Resume with: {again}")


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
