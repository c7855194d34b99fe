"""The files that exploring leaves: where they may lie, and writing them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.contracts import UInt8Image, guarded
from headstart.data.copies import relation
from headstart.data.ledger import Ledger
from headstart.data.subset import ImageSource, Subset
from headstart.errors import RunError
from headstart.files import csv_text, first_bytes, write_atomically, write_json, writing
from headstart.recipe.sections import DataRecipe
from headstart.report.explore_page import MADE_BY, FileName, explore_page
from headstart.report.review_page import review_page
from headstart.runs.folder import check_writable
from headstart.workflows.resolve import absolute_data, check_outside, check_same_data

PAGE, REVIEW, FIGURES = "explore.html", "review.html", "explore.json"
_LABEL_ERRORS, _FILES = "label_errors.csv", "files.csv"
"""Lists that not every call writes."""
SAMPLES_OF_A_CLASS = 10
SHOWN_SIDE = 96
"""Side at which images are shown, in pixels; large ones may be decoded reduced to it."""


def default_folder(data: str) -> Path:
    """Return the folder for a data set's page where none is named: ``explore-NAME`` in the working folder.

    Raises:
        RunError: It holds the page of other data of that name.
    """
    folder = Path(f"explore-{Path(absolute_data(data)).name}")
    check_same_data(folder / FIGURES, data)
    return folder


def check_place(folder: Path, data: DataRecipe) -> None:
    """Raise RunError where ``folder`` lies in the data's, or holds what exploring has not written or should read."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, so it can't hold a page. Name a folder with --out.")
    check_writable(folder)
    check_outside(folder, absolute_data(data.name))
    if data.labels_from and Path(data.labels_from).resolve() == (folder / _LABEL_ERRORS).resolve():
        raise RunError(
            f"{data.labels_from} is where exploring writes its own list, so your corrections would be lost. Give the "
            "file another name, or another folder with --out."
        )
    ours = MADE_BY.encode() in first_bytes(folder / FIGURES, 1000)
    if not ours and folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} holds something else than an exploration. Give another folder with --out.")
    for name in (PAGE, REVIEW):
        path = folder / name
        if path.exists() and MADE_BY.encode() not in first_bytes(path, 1000):
            raise RunError(
                f"{path} was not written by `headstart explore`, so it is not overwritten. Name another folder with "
                "--out, or move it away."
            )


def write_exploration(
    folder: Path,
    found: dict[str, Any],
    mean_images: NDArray[np.float64] | None,
    splits: Sequence[Subset],
    ledger: Ledger | None,
) -> None:
    """Write figures, pages and lists.

    Raises:
        WriteError: The folder can't be written.
    """
    sources: dict[str, ImageSource] = {split.name: split.source for split in splits}

    def picture(split: str, row: int) -> UInt8Image:
        return sources[split].image(row, at_least=SHOWN_SIDE)

    def name(image: dict[str, Any]) -> str:
        return file_name(sources[image["split"]], image)

    page = explore_page(found, picture=picture, file_name=name, samples=samples(splits[0]), mean_images=mean_images)
    review = review_page(found, picture=picture, file_name=name)
    tables = {
        "quality.csv": _quality(found["quality"], name),
        "copies.csv": _copies(found["duplicates"], name),
        "outliers.csv": _outliers(found["outliers"], name),
    }
    if found["label_errors"]:
        tables[_LABEL_ERRORS] = _label_errors(found["label_errors"], name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # An earlier call's would be taken for lists of this one.
        for list_name, written in ((_LABEL_ERRORS, found["label_errors"]), (_FILES, ledger)):
            if not written:
                (folder / list_name).unlink(missing_ok=True)
    write_json(folder / FIGURES, found)
    for table, rows in tables.items():
        # No text is a formula, as in files.csv.
        cells = ([guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        write_atomically(folder / table, csv_text(cells))
    if ledger:
        ledger.write(folder / _FILES)
    write_atomically(folder / REVIEW, review)
    write_atomically(folder / PAGE, page)


def file_name(source: ImageSource, image: dict[str, Any]) -> str:
    """Return the name of an image in tables: its file's path, or ``train/17`` for a row of an array."""
    return source.path(image["row"]) or f"{image['split']}/{image['row']}"


def samples(train: Subset) -> dict[str, list[int]]:
    """Return the first rows of each class: no choice by anybody."""
    firsts: dict[str, list[int]] = {name: [] for name in train.class_names}
    names = list(train.class_names)
    for row, label in zip(train.rows.tolist(), train.labels.tolist(), strict=True):
        if len(firsts[names[label]]) < SAMPLES_OF_A_CLASS:
            firsts[names[label]].append(row)
    return firsts


def _quality(quality: dict[str, Any], name: FileName) -> list[Sequence[Any]]:
    rows = [
        (name(image), image["label"], issue, image["value"], image["split"])
        for issue, images in quality["issues"].items()
        for image in images
    ]
    return [("file_name", "label", "issue", "value", "split"), *rows]


def _copies(copies: dict[str, Any], name: FileName) -> list[Sequence[Any]]:
    groups = [("exact", group, 1.0) for group in copies["exact"]["list"]]
    groups += [("near", pair["images"], pair["pixel_similarity"]) for pair in copies["near"]["list"]]
    rows = [
        (number, kind, relation(group), similarity, name(image), image["label"], image["split"])
        for number, (kind, group, similarity) in enumerate(groups, start=1)
        for image in group
    ]
    return [("group", "kind", "relation", "similarity", "file_name", "label", "split"), *rows]


def _outliers(outliers: dict[str, list[dict[str, Any]]], name: FileName) -> list[Sequence[Any]]:
    rows = [
        (name(image), label, image["likeness"], image["split"])
        for label, images in outliers.items()
        for image in images
    ]
    return [("file_name", "label", "likeness", "split"), *rows]


def _label_errors(errors: dict[str, Any], name: FileName) -> list[Sequence[Any]]:
    keys = ("label", "suggested", "confidence", "self_confidence", "wrong", "suspected", "split")
    return [("file_name", *keys), *((name(image), *(image[key] for key in keys)) for image in errors["list"])]
