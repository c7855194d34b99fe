"""The data set that a recipe names, with what a run knows of it already."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from headstart.data.dataset import Dataset, in_files, load_dataset
from headstart.data.file_dataset import FileOptions
from headstart.data.screening import screen
from headstart.recipe.schema import Recipe
from headstart.recipe.sections import DataRecipe
from headstart.runs.run import Run
from headstart.terminal import Terminal


def load_data(recipe: Recipe, terminal: Terminal, *, data_dir: Path | None, run: Run | None = None) -> Dataset:
    """Load the data set of a recipe; images in files have all been decoded once then.

    Of a run that started from these data, every image in a file stays in the split that it had there, what the run
    could not read stays left out, and nothing is decoded again.

    Raises:
        DataError: The data can't be had, or some images can't be read and the recipe does not leave them out.
        RunError: The run's ledger is missing or damaged.
    """
    data = recipe.data
    former = run.former() if run else None
    options = file_options(data, seed=recipe.seed, former=former)
    dataset = load_dataset(data.name, limit=data.limit, data_dir=data_dir, progress=terminal.enabled, options=options)
    if dataset.ledger is not None and not former:
        dataset = screen(dataset, on_bad=data.on_bad, terminal=terminal)
    for note in dataset.notes:
        terminal.say(note)
    return dataset


def file_options(data: DataRecipe, **more: Any) -> FileOptions:
    """Return how files become a data set by a recipe's section; ``more`` are other fields of the options."""
    keys = {field.name for field in fields(FileOptions)} & DataRecipe.model_fields.keys()
    return FileOptions(**{key: getattr(data, key) for key in keys}, **more)


def options_to_look(data: DataRecipe, **more: Any) -> FileOptions:
    """Return such options for images that are only looked at: what can't be read is left out, unless told otherwise."""
    skips = in_files(data.name) and "on_bad" not in data.model_fields_set
    return replace(file_options(data), on_bad="skip" if skips else data.on_bad, **more)


def as_started(run: Run, dataset: Dataset) -> Dataset:
    """Return the data set as a run that started from it has split it: images in files are known by their content.

    Raises:
        DataError: The run started from others; what differs is counted and named.
    """
    if dataset.ledger is None or not run.has_manifest:
        run.check_same_data(dataset)
        return dataset
    manifest = run.manifest()
    manifest.check(dataset)
    return replace(dataset, val=manifest.select(dataset.train, "val"))
