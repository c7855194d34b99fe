"""What follows from the cells: curves of accuracy against time, rates, and how far headstart is ahead."""

import statistics
from collections.abc import Iterable
from typing import Any

from rivals import RIVALS

LEVELS = (0.85, 0.8882, 0.91, 0.93)
_RATED = ("expert", "defaults", "steady")
_CURVES = ("expert", "defaults")


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Return for each rival and setting the medians of its lengths, and what follows from them."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, cell in cells.items():
        name, setting, length, _seed = key.split("/")
        if "seconds" in cell:
            grouped.setdefault(f"{name}/{setting}", {}).setdefault(length, []).append(cell)
    return {key: _of_setting(*key.split("/"), by_length) for key, by_length in grouped.items()}


def _of_setting(name: str, setting: str, by_length: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    points = []
    for length, found in by_length.items():
        point: dict[str, Any] = {"length": length, "seeds": len(found)}
        for figure in ("seconds", "accuracy", "peak_mb", "images_per_second"):
            if figure in found[0]:
                values = [cell[figure] for cell in found]
                point[figure] = round(statistics.median(values), 4)
                point[f"{figure}_range"] = [min(values), max(values)]
        points.append(point)
    row: dict[str, Any] = {"points": points, "lines": RIVALS[name].lines(setting)}
    if RIVALS[name].pretrained and setting in _CURVES:
        # A user who needs an accuracy trains for as long as it takes; with fewer epochs, not to their middle.
        row["seconds_to"] = {
            f"{level:.2%}": min((p["seconds"] for p in points if p["accuracy"] >= level), default=None)
            for level in LEVELS
        }
    epochs = {int(point["length"]): point for point in points if point["length"].isdigit()}
    # headstart's own recipes train only some of the layers, at several sizes.
    if setting in _RATED and (name != "headstart" or setting == "steady") and len(epochs) > 1:
        first, last = min(epochs), max(epochs)
        seconds = epochs[last]["seconds"] - epochs[first]["seconds"]
        images = by_length[str(last)][0]["images"] * (1 - RIVALS[name].held_out) * (last - first)
        # On a busy machine a short training can take longer than a long one, which tells nothing of the speed.
        row["images_per_second"] = round(images / seconds, 1) if seconds > 0 else None
    return row


def ratios(found: dict[str, Any]) -> dict[str, float | None]:
    """Return how far headstart is ahead of the best rival, each above 1 where it is; None where one was not measured.

    Args:
        found: What ``summary`` returned.
    """

    def values(mine: bool, settings: Iterable[str], figure: Any) -> list[float]:
        taken = []
        for key, row in found.items():
            name, setting = key.split("/")
            if (name == "headstart") == mine and setting in settings and RIVALS[name].pretrained:
                taken += [value for value in [figure(row)] if value is not None]
        return taken

    def less(settings: Iterable[str], figure: Any) -> float | None:
        ours, theirs = values(True, settings, figure), values(False, settings, figure)
        return round(min(theirs) / min(ours), 2) if ours and theirs else None

    def more(settings: Iterable[str], figure: Any) -> float | None:
        ours, theirs = values(True, settings, figure), values(False, settings, figure)
        return round(max(ours) / max(theirs), 2) if ours and theirs else None

    def rate_of(files: str) -> Any:
        return lambda row: next((p["images_per_second"] for p in row["points"] if p["length"] == files), None)

    from_files = [more(("files", "files-onnx"), rate_of(files)) for files in ("png", "jpeg")]
    return {
        "time_to_8882": less(_CURVES, lambda row: row["seconds_to"]["88.82%"]),
        "time_to_91": less(_CURVES, lambda row: row["seconds_to"]["91.00%"]),
        "frozen_baseline": less(("frozen",), lambda row: row["points"][0]["seconds"]),
        "train_images_per_second": more(_RATED, lambda row: row.get("images_per_second")),
        "inference_from_files": min((ratio for ratio in from_files if ratio), default=None),
        "peak_memory": less(("expert",), lambda row: max(point["peak_mb"] for point in row["points"])),
    }
