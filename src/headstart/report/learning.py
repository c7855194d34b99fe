"""Training against validation, epoch by epoch."""

from collections.abc import Sequence
from typing import Any

from headstart.report import charts
from headstart.report.page import percent


def learning_curves(history: Sequence[dict[str, float]], kept_epoch: int | None) -> dict[str, Any] | None:
    """Return the charts of ``loss`` and ``accuracy``, and whether the kept epoch ``is_best``; None without epochs.

    Args:
        history: ``history.csv``, a row an epoch.
        kept_epoch: Marked in the charts.
    """
    if not history:
        return None
    epochs = [int(row["epoch"]) for row in history]
    top = max(row["val_accuracy"] for row in history)
    is_best = any(row["epoch"] == kept_epoch and row["val_accuracy"] == top for row in history)

    def curve(quantity: str, *, share: bool) -> charts.LineChart:
        sides = {"train": f"train_{quantity}", "validation": f"val_{quantity}"}
        return charts.line_chart(
            epochs,
            {name: [row[key] for row in history] for name, key in sides.items()},
            kept_epoch=kept_epoch,
            is_best=is_best,
            number=(lambda value: percent(value, 0)) if share else (lambda value: f"{value:.3g}"),
        )

    return {"loss": curve("loss", share=False), "accuracy": curve("accuracy", share=True), "is_best": is_best}
