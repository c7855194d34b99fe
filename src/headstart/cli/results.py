"""How results read in a terminal: plain lines, fit for a pipe as well."""

import json
import sys
from pathlib import Path
from typing import Any

from headstart.tasks.metrics import balanced_accuracy, is_uneven, shown_in
from headstart.wording import (
    FINE_TUNING_GAIN,
    counted,
    duration,
    gigabytes,
    listed,
    percent,
    percent_range,
    percent_short,
    points_range,
    signed_points,
    typed,
)

_SPLITS = {"val": "validation", "test": "test"}


def show(run: Path) -> None:
    """Print a finished run's figures again, from its files: the test split stays closed."""
    sys.stdout.write(result_lines(json.loads((run / "metrics.json").read_text(encoding="utf-8")), run) + "\n")


def result_lines(metrics: dict[str, Any], out: Path) -> str:
    """Return the figures of ``metrics.json`` that people look for first, one per line."""
    # Here, because the command line's --help needs no numpy.
    from headstart.contracts import FEW_TO_CHOOSE_BY

    test = metrics["test"]
    told = {metric.name: metric.write(test[metric.name]) for metric in shown_in("terminal")}
    few = [(metrics[split]["n"], f"{name} image") for split, name in _SPLITS.items() if split in metrics]
    doubt = next((f"; mostly chance, from {counted(*found)}" for found in few if found[0] < FEW_TO_CHOOSE_BY), "")
    return "\n".join(
        [
            *_averages(test),
            f"Test        {told['accuracy']} accuracy on {counted(test['n'], 'image')} "
            f"(95% interval {percent_range(test['accuracy_ci95'])})",
            f"Calibration ECE {told['ece_calibrated']} ({told['ece']} before temperature scaling{doubt})",
            *_abstention_line(metrics),
            *_budget_line(metrics),
            f"Cost        {_cost(metrics) or 'not recorded'}",
            f"Report      {out / 'report.html'}",
            f"Model       {out / 'model'}",
            f"Next        {typed('predict', out / 'model', 'IMAGE...')}",
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


def drift_lines(found: dict[str, Any]) -> str:
    """Return what a classifier is worth on other data, and what has moved since validation, one fact per line."""
    figures, drift, calibration, doubts = (found[key] for key in ("figures", "drift", "calibration", "doubts"))
    moved = "not known, like the images that the classifier has seen: it came without its run"
    if drift:
        moved = f"{signed_points(drift['accuracy']['difference'])} points against validation "
        moved += f"({points_range(drift['accuracy']['ci95'])}); mean probability "
        moved += signed_points(drift["confidence_shift"])
    before = f" ({percent(calibration['val_ece'])} on validation)" if drift else ""
    lines = [
        f"Accuracy    {percent(figures['accuracy'])} on {counted(figures['n'], 'image')} "
        f"(95% interval {percent_range(figures['accuracy_ci95'])})",
        f"Drift       {moved}",
        f"Calibration {'holds' if calibration['holds'] else 'no longer holds'}: probability minus accuracy "
        f"{signed_points(calibration['overconfidence'])} points ({points_range(calibration['overconfidence_ci95'])}); "
        f"ECE {percent(calibration['ece'])}{before}",
    ]
    if drift and (worse := [row for row in drift["per_class"] if row["ci95"][1] < 0][:5]):
        told = [f"{row['class']} {signed_points(row['difference'], 1)}" for row in worse]
        lines.append(f"Worse       {', '.join(told)} points of recall")
    marks = [f"{percent(doubts[key], 1)} {key}" for key in ("unsure", "unfamiliar") if doubts[key] is not None]
    if marks:
        lines.append(f"Marked      {', '.join(marks)}")
    if unknown := found["unknown_classes"]:
        share = doubts["unfamiliar_of_unknown_classes"]
        flagged = "" if share is None else f"; {percent(share, 1)} of them are marked unfamiliar"
        lines.append(
            f"Unknown     {counted(sum(unknown.values()), 'image')} of other classes: {listed(list(unknown))}{flagged}"
        )
    for why, count in found["left_out"].items():
        lines.append(f"Left out    {counted(count, 'image')}: {why}")
    return "\n".join(lines)


def _abstention_line(metrics: dict[str, Any]) -> list[str]:
    """Return what the classifier answers when it may leave unsure images out; nothing of runs of early versions."""
    from headstart.tasks.abstention import about_others, missed_on_test, row_of

    block = metrics.get("abstention")
    if not block:
        return []
    row, others = row_of(block["target"], block), about_others(block)
    others = f"; {others}" if others else ""
    target, test = percent_short(row["target"]), row["test"]
    if row["threshold"] is None:
        return [f"Sure        none: validation shows {target} for no threshold, so all predictions are unsure{others}"]
    right = f"; {percent(test['accuracy'])} of them are right" if test["answered"] else ""
    right += ", below its target" * missed_on_test(row)
    return [
        f"Sure        {percent(test['coverage'], 1)} of the test images, with a probability of at least "
        f"{row['threshold']:.3f}{right} (set for {target} on validation{others})"
    ]


def _budget_line(metrics: dict[str, Any]) -> list[str]:
    """Return that the budget had no room for fine-tuning, and which has; nothing where it had."""
    if metrics.get("needed_budget") is None:
        return []
    return [
        f"Budget      too short for fine-tuning, so only the head was trained; {FINE_TUNING_GAIN}. "
        f"--budget {metrics['needed_budget'] / 60:.0f}min has room for it"
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
