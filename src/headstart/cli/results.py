"""How results read in a terminal: plain lines, fit for a pipe as well.

``python -m headstart.cli.results RUN`` shows a finished run's figures again without opening the test split again.
"""

import json
import sys
from pathlib import Path
from typing import Any

from headstart.tasks.metrics import balanced_accuracy, is_uneven, shown_in
from headstart.wording import counted, duration, gigabytes, percent, percent_range, percent_short


def result_lines(metrics: dict[str, Any], out: Path) -> str:
    """Return the figures of ``metrics.json`` that people look for first, one per line."""
    # Here, because the command line's --help needs no numpy.
    from headstart.contracts import FEW_TO_CHOOSE_BY

    test = metrics["test"]
    told = {metric.name: metric.write(test[metric.name]) for metric in shown_in("terminal")}
    val = metrics["val"]["n"] if "val" in metrics else FEW_TO_CHOOSE_BY
    doubt = f"; mostly chance, from {counted(val, 'validation image')}" if val < FEW_TO_CHOOSE_BY else ""
    return "\n".join(
        [
            *_averages(test),
            f"Test        {told['accuracy']} accuracy on {counted(test['n'], 'image')} "
            f"(95% interval {percent_range(test['accuracy_ci95'])})",
            f"Calibration ECE {told['ece_calibrated']} ({told['ece']} before temperature scaling{doubt})",
            *_abstention_line(metrics),
            f"Cost        {_cost(metrics) or 'not recorded'}",
            f"Report      {out / 'report.html'}",
            f"Model       {out / 'model'}",
        ]
    )


def _averages(test: dict[str, Any]) -> list[str]:
    """Return the averages over classes, which come first where some classes have many more images than others."""
    # Figures that were copied from a run may lack the classes.
    if "per_class" not in test or not is_uneven(test["per_class"]):
        return []
    counts = [figures["support"] for figures in test["per_class"].values()]
    return [
        f"Classes     {percent(balanced_accuracy(test['per_class']))} balanced accuracy (mean recall of the classes), "
        f"{percent(test['macro_f1'])} macro F1; they have {min(counts):,} to {max(counts):,} test images"
    ]


def _abstention_line(metrics: dict[str, Any]) -> list[str]:
    """Return what the classifier answers when it may leave unsure images out; nothing of runs of early versions."""
    block = metrics.get("abstention")
    row = next((row for row in block["rows"] if row["target"] == block["target"]), None) if block else None
    if row is None:
        return []
    target, test = percent_short(row["target"]), row["test"]
    if row["threshold"] is None or not test["answered"]:
        return [f"Sure        no threshold reaches {target} on validation, so every prediction is marked unsure"]
    few = "" if row["enough"] else f"; validation is too small to promise {target}"
    return [
        f"Sure        {percent(test['coverage'], 1)} of the test images, with a probability of at least "
        f"{row['threshold']:.3f}; {percent(test['accuracy'])} of them are right (set for {target} on validation{few})"
    ]


def _cost(metrics: dict[str, Any]) -> str:
    """Return time and memory as far as they are known: a run that was stopped between two stages lacks some."""
    told = []
    if metrics.get("total_seconds") is not None:
        predicted = metrics.get("predicted_seconds")
        told.append(
            f"{duration(metrics['total_seconds'])} in all{f' ({duration(predicted)} predicted)' if predicted else ''}"
        )
    if metrics.get("train_seconds") is not None:
        cached = metrics.get("cached_seconds")
        saved = f" ({duration(cached)} of it saved by cached features)" if cached else ""
        told.append(f"{duration(metrics['train_seconds'])} of training{saved}")
    if metrics.get("peak_rss_mb") is not None:
        told.append(f"peak memory {gigabytes(metrics['peak_rss_mb'])}")
    return ", ".join(told)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.stdout.write(result_lines(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder) + "\n")
