"""The files that exploring leaves: where they may lie, and writing them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.subset import ImageSource, Subset
from headstart.errors import RunError
from headstart.files import first_bytes, write_atomically, write_json
from headstart.inspection.statistics import Statistics
from headstart.report.explore_page import MADE_BY, explore_page
from headstart.runs.folder import check_writable

PAGE, FIGURES = "explore.html", "explore.json"

SAMPLES_OF_A_CLASS = 10


def default_folder(data: str) -> Path:
    """Return the folder for a data set's page where none is named: ``explore-NAME`` in the working folder."""
    return Path(f"explore-{Path(data).name}")


def check_place(folder: Path) -> None:
    """Raise RunError where ``folder`` can't take the page without overwriting what exploring has not written."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, so it can't hold a page. Name a folder with --out.")
    check_writable(folder)
    for name in (PAGE, FIGURES):
        path = folder / name
        if path.exists() and MADE_BY.encode() not in first_bytes(path, 1000):
            raise RunError(
                f"{path} was not written by `headstart explore`, so it is not overwritten. Name another folder with "
                "--out, or move it away."
            )


def write_exploration(
    folder: Path, found: dict[str, Any], statistics: dict[str, Statistics], splits: Sequence[Subset]
) -> None:
    """Write ``explore.json`` and ``explore.html``."""
    sources: dict[str, ImageSource] = {split.name: split.source for split in splits}
    page = explore_page(
        found,
        picture=lambda split, row: sources[split].image(row),
        samples=samples(splits[0]),
        mean_images=statistics["train"].mean_images,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FIGURES, found)
        write_atomically(folder / PAGE, page)
    except OSError as error:
        raise RunError(f"{folder} can't be written: {error.strerror}. Check space and permissions.") from None


def samples(train: Subset) -> dict[str, list[int]]:
    """Return the first rows of each class: no choice by anybody."""
    return {
        name: np.flatnonzero(train.labels == index)[:SAMPLES_OF_A_CLASS].tolist()
        for index, name in enumerate(train.class_names)
    }
