"""One self-contained page about a classifier on other data, made of the same parts as the page of a run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.contracts import UInt8Image
from headstart.report import charts
from headstart.report.classes import classes
from headstart.report.confusions import confusions
from headstart.report.mistakes import MISTAKES_SHOWN, most_confident
from headstart.report.page import render
from headstart.report.private import links
from headstart.runs.run import Run
from headstart.tasks.metrics import balanced_accuracy, is_uneven
from headstart.tasks.read import read_split

_HEAD_LINES = 2
"""Line of the first image in ``predictions.csv``."""


def write_elsewhere_page(
    folder: Run,
    found: Mapping[str, Any],
    pixels: Callable[[int], UInt8Image],
    *,
    data: str,
    files: Mapping[str, int] | None,
) -> Path:
    """Write ``report.html`` beside what was found on other data, whole or not at all.

    Args:
        folder: Where ``predictions.csv`` is.
        found: Content of ``evaluation.json``.
        pixels: From an image's place in ``predictions.csv`` to its pixels, shape (height, width, 3); called for the
            images on the page only.
        data: Path of the data.
        files: Number of files by what became of them; None where images lie in arrays.

    Raises:
        RunError: ``predictions.csv`` is missing or damaged.
        WriteError: The page can't be written.
    """
    test = read_split(found["figures"])
    # Rows of two arrays are ambiguous, lines of the file are not.
    predictions = [replace(row, row=line) for line, row in enumerate(folder.predictions(), start=_HEAD_LINES)]

    def thumbnails(line: int) -> UInt8Image:
        return pixels(line - _HEAD_LINES)

    page = render(
        "elsewhere.html.jinja",
        name=found["model"],
        found=found,
        files=files,
        test=test,
        noun="image",
        place="line",
        where="these images",
        link=links(folder.path, data),
        confusion=confusions(test.confusion_matrix, test.class_names, predictions, thumbnails),
        classes=classes(test),
        reliability=charts.reliability_chart(test.reliability, test.reliability_calibrated),
        mistakes=most_confident(predictions, thumbnails, count=MISTAKES_SHOWN),
        mistakes_in_all=sum(p.label != p.predicted for p in predictions),
        looks=None,
        uneven=is_uneven(test.per_class),
        balanced_accuracy=balanced_accuracy(test.per_class),
        most_unfolded=charts.MOST_CLASSES_LABELLED,
    )
    return folder.write_report(page)
