"""A run's folder: who may write to it, and what lies where."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.files import write_atomically, write_json
from headstart.recipe.schema import Recipe, dump_recipe, load_recipe


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``OUT/``."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.path / "history.csv"

    @property
    def environment(self) -> Path:
        """Versions, hardware, hashes, and every opening of the test split."""
        return self.path / "environment.json"

    @property
    def training(self) -> Path:
        """Facts about the training; its presence says that training is complete."""
        return self.path / "training.json"

    @property
    def manifest(self) -> Path:
        """Hash, split and label of every image."""
        return self.path / "split_manifest.csv"

    @property
    def model(self) -> Path:
        """The bundle."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, and what frozen stages computed."""
        return self.path / "checkpoints"

    @property
    def is_trained(self) -> bool:
        """Whether training is complete."""
        return self.training.is_file() and self.model.is_dir()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: trained, measured and reported."""
        return self.is_trained and all((self.path / name).is_file() for name in ("metrics.json", "report.html"))

    def drop_checkpoints(self) -> None:
        """Remove what only an unfinished training needs: most of a run's bytes."""
        for file in self.checkpoints.glob("*"):
            file.unlink()

    def read_environment(self) -> dict[str, Any]:
        """Return what is recorded so far; empty in a run that has just begun."""
        known: dict[str, Any] = json.loads(self.environment.read_text()) if self.environment.is_file() else {}
        return known

    def update_environment(self, **facts: Any) -> None:
        """Merge ``facts`` into environment.json."""
        write_json(self.environment, self.read_environment() | facts)


def check_free(path: Path) -> None:
    """Raise RunError where ``path`` can't become a new run's folder, before any work is done."""
    if (path / "recipe.yaml").is_file():
        finished = RunFolder(path).is_complete
        what = "a finished run. Measure it again" if finished else "a run. Go on with it"
        how = f"headstart evaluate {path}" if finished else f"headstart train --resume {path}"
        raise RunError(f"{path} already holds {what} ({how}), or give another folder with --out.")
    if path.is_file() or (path.is_dir() and any(not _is_left_over(file) for file in path.iterdir())):
        raise RunError(f"{path} is not an empty folder. Give another folder with --out.")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise RunError where no folder can be made at ``path``, or nothing be written to the one there is."""
    parent = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"{path} can't be written: {parent} is no folder you may write to. Give another with --out.")


def _is_left_over(file: Path) -> bool:
    """Return whether a process that was killed while it claimed the folder left this file."""
    return file.name.startswith(".recipe.yaml-")


def claim_folder(path: Path, recipe: Recipe) -> RunFolder:
    """Make a new run's folder and write its recipe.

    Raises:
        RunError: The folder holds something already, or can't be written.
    """
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / "recipe.yaml", dump_recipe(recipe))
        (path / "checkpoints").mkdir()
    except OSError as error:
        raise RunError(f"{path} can't be written ({error.strerror}). Give another folder with --out.") from None
    return RunFolder(path)


def reopen_folder(path: Path) -> tuple[RunFolder, Recipe]:
    """Return the folder and the recipe of a run that was begun.

    Raises:
        RunError: The folder holds no run, or can't be written.
    """
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        raise RunError(f"{path} holds no run: there is no recipe.yaml in it. Give the --out folder of a training.")
    if not os.access(path, os.W_OK):
        raise RunError(f"{path} can't be written. Resume as a user who may write there.")
    folder.checkpoints.mkdir(exist_ok=True)
    return folder, load_recipe(str(folder.recipe))
