"""Training against validation, epoch by epoch."""

from collections.abc import Sequence
from typing import Any

from headstart.contracts import EpochRecord
from headstart.report import curves
from headstart.wording import percent, significant


def learning_curves(history: Sequence[EpochRecord], kept_epoch: int | None) -> dict[str, Any] | None:
    """Return the charts of ``loss`` and ``accuracy``, and whether the kept epoch ``is_best``; None without epochs."""
    if not history:
        return None
    epochs = [row.epoch for row in history]
    top = max(map(_selecting, history))
    is_best = any(row.epoch == kept_epoch and _selecting(row) == top for row in history)

    def curve(quantity: str, *, share: bool) -> curves.CurveChart:
        sides = {"train": f"train_{quantity}", "validation": f"val_{quantity}"}
        return curves.line_chart(
            epochs,
            {name: [getattr(row, key) for row in history] for name, key in sides.items()},
            kept_epoch=kept_epoch,
            is_best=is_best,
            number=(lambda value: percent(value, 0)) if share else significant,
        )

    return {"loss": curve("loss", share=False), "accuracy": curve("accuracy", share=True), "is_best": is_best}


def _selecting(row: EpochRecord) -> float:
    """Return the accuracy that selects the epoch."""
    return row.val_accuracy if row.val_balanced_accuracy is None else row.val_balanced_accuracy
