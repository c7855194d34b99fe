"""Every number that a fine-tuning remembers from step to step."""

from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter

from headstart.contracts import EpochRecord, Validated


@dataclass
class Progress:
    """How far a fine-tuning has come, and the best epoch so far. Sums are over all processes.

    Attributes:
        epoch: Epochs finished.
        step: Steps taken in the epoch after those.
        loss_sum: Sum of the images' cross-entropies in this epoch, in nats.
        correct: Images of this epoch that the network classified correctly when it met them.
        seen: Images of this epoch so far.
        epoch_seconds: Seconds of training in this epoch.
        total_seconds: Seconds of training in the finished epochs.
        best_epoch: Best epoch on validation, counted from 1; 0 for the network as it came in.
        best_accuracy: Validation accuracy of the best epoch, balanced where classes are uneven.
        best_loss: Validation loss of the best epoch.
        history: Record of each finished epoch.
    """

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

    @classmethod
    def from_numbers(cls, numbers: dict[str, Any]) -> "Progress":
        """Return the progress whose ``dataclasses.asdict`` is ``numbers``; raise ValueError where there is none."""
        known = {field.name for field in fields(cls)}
        if numbers.keys() != known:
            raise ValueError(f"expected the numbers {sorted(known)}, found {sorted(numbers)}")
        progress: Progress = TypeAdapter(cls).validate_python(numbers)
        counts = (progress.epoch, progress.step, progress.correct, progress.seen, progress.best_epoch)
        if min(counts) < 0 or len(progress.history) != progress.epoch or progress.best_epoch > progress.epoch:
            raise ValueError(f"epoch {progress.epoch}, step {progress.step} does not fit the history")
        return progress

    def start_epoch(self) -> None:
        """Continue with the next epoch."""
        self.epoch += 1
        self.step, self.loss_sum, self.correct, self.seen, self.epoch_seconds = 0, 0.0, 0, 0, 0.0

    def finish_epoch(self, *, val: Validated, learning_rate: float, image_size: int) -> bool:
        """Record the epoch and return whether it is the best so far."""
        self.total_seconds += self.epoch_seconds
        self.history.append(
            EpochRecord(
                epoch=self.epoch + 1,
                train_loss=self.loss_sum / self.seen,
                train_accuracy=self.correct / self.seen,
                val_loss=val.loss,
                val_accuracy=val.accuracy,
                val_balanced_accuracy=val.balanced,
                learning_rate=learning_rate,
                image_size=image_size,
                seconds=self.epoch_seconds,
                images_per_second=self.seen / max(self.epoch_seconds, 1e-9),
            )
        )
        better = val.score > (self.best_accuracy, -self.best_loss)
        if better:
            self.best_epoch, self.best_accuracy, self.best_loss = self.epoch + 1, val.score[0], val.loss
        return better

    def is_stale(self, patience: int) -> bool:
        """Return whether ``patience`` epochs in a row were no better on validation; never where it is 0."""
        return bool(patience) and self.epoch - self.best_epoch >= patience

    @property
    def images_per_second(self) -> float:
        """Training images per second over all epochs."""
        images = sum(record.images_per_second * record.seconds for record in self.history)
        return images / max(self.total_seconds, 1e-9)
