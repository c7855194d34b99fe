"""Who may write to a run's folder: claiming a new one, reopening an old one, and the lock held meanwhile."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.data.ledger import LEDGER_HEAD, Ledger
from headstart.errors import RunError
from headstart.files import alone, nearest_path, parse_json, read_bounded, writing
from headstart.folders import sweep_leftovers
from headstart.recipe.schema import Recipe
from headstart.runs.records import Environment
from headstart.runs.run import Run
from headstart.wording import typed

LOCK = ".lock"
"""File that a process holds open while it works in a run; it stays, since removing a lock file would break the lock."""

_ENVIRONMENT_BYTES = 10_000_000
"""Largest environment.json that a killed process could have left."""


def check_free(path: Path) -> None:
    """Raise RunError where ``path`` can't become a new run's folder, before any work is done."""
    _check_path(path)
    run = Run(path)
    if run.is_started:
        what = "a finished run. Measure it again" if run.is_complete else "a run. Resume it"
        how = typed("evaluate", path) if run.is_complete else typed("train", "--resume", path)
        raise RunError(f"{path} already holds {what} ({how}), or give another folder with --out.")
    if path.exists() and not (path.is_dir() and all(_is_left_over(file) for file in path.iterdir())):
        what = "is not an empty folder. Give another" if path.is_dir() else "is a file. Give a"
        raise RunError(f"{path} {what} folder with --out.")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise RunError where no folder can be made at ``path``, or nothing can be written to the one there is."""
    parent = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(
            f"{path} can't be written: {parent} is not a folder you may write to. Give another one with --out."
        )


def check_started(run: Run) -> None:
    """Raise RunError where the folder holds no run."""
    _check_path(run.path)
    if not run.is_started:
        what = "holds no run: there is no recipe.yaml in it."
        if not run.path.exists():
            what = f"does not exist.{nearest_path(run.path, such=lambda path: Run(path).is_started)}"
        raise RunError(f"{run.path} {what} Give the --out folder of a training.")


@contextmanager
def claim_run(path: Path, recipe: Recipe, environment: Environment, ledger: Ledger | None = None) -> Iterator[Run]:
    """Make a new run's folder and keep other processes out of it.

    What a resumed process needs is written before the recipe, with which the folder counts as a run.

    Raises:
        RunError: The folder holds something already, or another process works in it.
        WriteError: It can't be written.
    """
    check_free(path)
    with writing(path, "Give another folder with --out."):
        path.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        check_free(path)
        _sweep(path)
        run = Run(path)
        run.write_environment(environment)
        if ledger is not None:
            run.write_ledger(ledger)
        _make_checkpoints(run)
        run.write_recipe(recipe)
        yield run


@contextmanager
def reopen_run(path: Path) -> Iterator[Run]:
    """Open a run that was started, and keep other processes out of it.

    Raises:
        RunError: The folder holds no run, can't be written, or another process works in it.
    """
    run = Run(path)
    check_started(run)
    if not os.access(path, os.W_OK):
        raise RunError(f"{path} can't be written. Work on it as a user who may write there.")
    with _alone(path):
        _sweep(path)
        _make_checkpoints(run)
        yield run


def _check_path(path: Path) -> None:
    """Raise RunError for a path that can't be used: too long, a loop of links, a folder that can't be entered."""
    try:
        (path / "recipe.yaml").stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{str(path)[:200]} can't be a run's folder ({reason}). Give another one.") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; it ends with the process, however that ends."""

    def refuse() -> None:
        raise RunError(
            f"Another process works in {path}{_owner(path)}. Wait until it has finished, or stop it; it saves a "
            "checkpoint first."
        ) from None

    with alone(path / LOCK, waiting=refuse):
        # For people only; the lock does not depend on it.
        with suppress(OSError):
            (path / LOCK).write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                (path / LOCK).write_text("", encoding="utf-8")


def _owner(path: Path) -> str:
    with suppress(OSError, ValueError):
        process, _, host = (path / LOCK).read_text(encoding="utf-8").strip().partition(" ")
        if process and host:
            return f": process {process} on {host}"
    return ""


def _make_checkpoints(run: Run) -> None:
    try:
        run.checkpoints.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{run.checkpoints} can't be the folder of the checkpoints ({error.strerror}). Move it away."
        ) from None


def _sweep(path: Path) -> None:
    """Remove temporary files that killed processes left; under the lock nobody else is writing one."""
    for folder in (path, path / "checkpoints"):
        sweep_leftovers(folder, older_than=0)


def _is_left_over(file: Path) -> bool:
    """Return whether a process that was killed while it claimed the folder left this file."""
    if file.name == "environment.json":
        with suppress(OSError, ValueError, AttributeError):
            return "headstart" in parse_json(read_bounded(file, at_most=_ENVIRONMENT_BYTES)).get("versions", {})
        return False
    if file.name == "files.csv":
        with suppress(OSError), file.open("rb") as opened:
            return opened.readline(len(LEDGER_HEAD) + 1) == f"{LEDGER_HEAD}\n".encode()
        return False
    if file.name == "checkpoints":
        return file.is_dir() and not any(file.iterdir())
    return file.name == LOCK or file.name.startswith((".recipe.yaml-", ".environment.json-", ".files.csv-"))


def runs_below(place: Path) -> list[Run]:
    """Return the runs in a folder and in the folders below it, by path."""
    return [Run(path.parent) for path in sorted(place.rglob("recipe.yaml"))]
