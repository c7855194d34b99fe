"""Accuracy on corrupted test images, from ``corruptions.json``."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import RunError
from headstart.report import curves
from headstart.report.mistakes import data_uri
from headstart.wording import percent


def robustness(run: Path, figures: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows of corrupted images, or None when none were measured.

    Args:
        run: The folder, with ``corruptions.png`` in it: a row for each corruption, a column for each severity.
        figures: ``corruptions.json``.

    Raises:
        RunError: One of the two files is damaged.
    """
    if figures is None:
        return None
    try:
        if missing := {"n", "accuracy", "accuracy_ci95", "relative_accuracy"} - set(figures):
            raise KeyError(*sorted(missing))
        severities, clean = figures["severities"], figures["clean_accuracy"]
        lines = {**figures["categories"], "all": figures["by_severity"]}
        chart = curves.curve_chart(
            {name: [(0.0, clean), *zip(map(float, severities), row, strict=True)] for name, row in lines.items()},
            styles=[*figures["categories"], "all"],
            x_ticks={0.0: "original"} | {float(s): str(s) for s in severities},
            number=lambda value: percent(value, 0),
        )
        worst = min(
            (
                (name, severities[i], value)
                for name, row in figures["corruptions"].items()
                for i, value in enumerate(row["accuracy"])
            ),
            key=lambda found: found[2],
        )
        means = {name: sum(row["accuracy"]) / len(row["accuracy"]) for name, row in figures["corruptions"].items()}
        pictures = _pictures(run / "corruptions.png", len(figures["corruptions"]), len(severities))
        return {
            "figures": figures,
            "lines": lines,
            "chart": chart,
            "worst": worst,
            "means": means,
            "pictures": dict(zip(figures["corruptions"], pictures, strict=True)),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / 'corruptions.json'} is damaged ({error!r}). Write it anew with "
            f"`headstart evaluate {run} --corruptions`, or remove it."
        ) from None


def _pictures(path: Path, rows: int, columns: int) -> list[list[str]]:
    """Return the pictures of a contact sheet as ``data:`` URIs; empty strings when there is no sheet."""
    if not path.is_file():
        return [[""] * columns] * rows
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path.name}: {error}") from None
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    return [
        [data_uri(pixels[r * height : (r + 1) * height, c * width : (c + 1) * width]) for c in range(columns)]
        for r in range(rows)
    ]
