"""Accuracy on corrupted test images, as the page of a run shows it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import RunError
from headstart.report import curves
from headstart.report.mistakes import data_uri
from headstart.runs.run import Run
from headstart.wording import percent


def robustness(run: Run) -> dict[str, Any] | None:
    """Return what the page shows of corrupted images, or None when none were measured.

    Raises:
        RunError: The figures or the images are damaged.
    """
    figures = run.corruptions()
    if figures is None:
        return None
    lines = {**figures.categories, "all": figures.by_severity}
    chart = curves.curve_chart(
        {
            name: [(0.0, figures.clean_accuracy), *zip(map(float, figures.severities), row, strict=True)]
            for name, row in lines.items()
        },
        styles=[*figures.categories, "all"],
        x_ticks={0.0: "original"} | {float(s): str(s) for s in figures.severities},
        number=lambda value: percent(value, 0),
    )
    worst = min(
        (
            (name, figures.severities[i], value)
            for name, found in figures.corruptions.items()
            for i, value in enumerate(found.accuracy)
        ),
        key=lambda found: found[2],
    )
    means = {name: sum(found.accuracy) / len(found.accuracy) for name, found in figures.corruptions.items()}
    pictures = _pictures(run.corruption_sheet, len(figures.corruptions), len(figures.severities))
    return {
        "figures": figures,
        "lines": lines,
        "chart": chart,
        "worst": worst,
        "means": means,
        "pictures": dict(zip(figures.corruptions, pictures, strict=True)),
    }


def _pictures(path: Path, rows: int, columns: int) -> list[list[str]]:
    """Return the images of a contact sheet as ``data:`` URIs; empty strings when there is no sheet."""
    if not path.is_file():
        return [[""] * columns] * rows
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(
            f"{path} can't be read as an image: {error}. Remove it, or write it again with `headstart evaluate "
            f"{path.parent} --corruptions`."
        ) from None
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    if not height or not width:
        raise RunError(f"{path} is too small for {rows} corruptions at {columns} severities. Remove it.")
    return [
        [data_uri(pixels[r * height : (r + 1) * height, c * width : (c + 1) * width]) for c in range(columns)]
        for r in range(rows)
    ]
