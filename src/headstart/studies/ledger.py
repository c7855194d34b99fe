"""``study.json``: what a study has found so far, written after every stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.files import parse_json, read_bounded, write_json, writing
from headstart.runs.run import Run

FILE = "study.json"
_SIDES = ("unit", "weights")
MAX_BYTES = 100_000_000
"""Largest size of a study's file."""
_MUST_AGREE = {
    "data": "the data",
    "data_sha256": "the data",
    "backbone": "--backbone",
    "limit": "--limit or --full",
    "plan": "--plan",
    "overrides": "--set",
}


@dataclass
class Ledger:
    """A study's folder and what is known of its stages.

    Attributes:
        folder: Holds ``study.json`` and the runs.
        header: Data, backbone, limit and the like.
        order: Names of the plan's stages.
        rows: One for each finished stage and seed.
        lesson: One for each pair of finished stages that differ in the preprocessing alone, and seed.
        failed: The stage that could not be finished, and why.
    """

    folder: Path
    header: dict[str, Any]
    order: Sequence[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    lesson: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, Any] | None = None

    def row(self, name: str | None, seed: int) -> dict[str, Any] | None:
        """Return a stage's row, or None."""
        return next((row for row in self.rows if row["name"] == name and row["seed"] == seed), None)

    def before(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return the row of the last finished stage ahead of this one in the plan, of those that are no asides."""
        earlier = [self.row(other, seed) for other in self.order[: self.order.index(name)]]
        return next((row for row in reversed(earlier) if row is not None and not row["aside"]), None)

    def put(self, row: dict[str, Any]) -> None:
        """Add a stage's row in its place, in the stead of an older one."""
        others = [old for old in self.rows if (old["name"], old["seed"]) != (row["name"], row["seed"])]
        self.rows = sorted([*others, row], key=lambda known: (known["seed"], self.order.index(known["name"])))

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``study.json``."""
        return {**self.header, "failed": self.failed, "stages": self.rows, "lesson": self.lesson}

    def write(self) -> None:
        """Write ``study.json``, whole or not at all.

        Raises:
            WriteError: The folder can't be written.
        """
        with writing(self.folder, "Give another folder with --out."):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FILE, self.as_dict())


def open_ledger(folder: Path, header: dict[str, Any], *, order: Sequence[str], resume: bool) -> Ledger:
    """Begin a study's ledger, or go on with the one that the folder holds.

    Raises:
        RunError: The folder holds another study, or something else, or there is nothing to resume.
    """
    path = folder / FILE
    if not path.is_file():
        has_runs = any(folder.glob("seed-*/"))
        if resume and not has_runs:
            raise RunError(f"{folder} holds no study to go on with. Leave --resume out to begin one there.")
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not has_runs):
            raise RunError(f"{folder} is neither empty nor a study's folder. Give another one with --out.")
        if has_runs and not resume:
            raise RunError(f"{folder} holds runs of a study. Recognise them by adding --resume, or give another --out.")
        return Ledger(folder, header, order)
    if not resume:
        raise RunError(f"{folder} already holds a study. Go on with it by adding --resume, or give another --out.")
    try:
        known = parse_json(read_bounded(path, at_most=MAX_BYTES))
        for key, option in _MUST_AGREE.items():
            if known[key] != header[key]:
                raise RunError(
                    f"The study in {folder} has {key} {known[key]!r}, and now {header[key]!r} is asked for. Give "
                    f"{option} as it was, or another folder with --out."
                )
        if foreign := [row["name"] for row in known["stages"] if row["name"] not in order]:
            raise RunError(
                f"The study in {folder} has a stage '{foreign[0]}', which the plan has not. Give --plan as it was, or "
                "another folder with --out."
            )
        # A run that was removed is trained again, at the same path: what compared it with others must go too.
        rows = [row for row in known["stages"] if _is_there(folder / row["run"])]
        for row in rows:
            if row["against"] and not all(_is_there(folder / run) for run in row["against"]["runs"]):
                row["against"] = None
        lesson = [pair for pair in known["lesson"] if all(_is_there(folder / pair[side]["run"]) for side in _SIDES)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(
            f"{path} is damaged ({error}). Remove it and add --resume: finished runs are recognised."
        ) from None
    return Ledger(folder, header, order, rows, lesson)


def _is_there(run: Path) -> bool:
    # Written last, so that a run which is being made anew is not there yet.
    return Run(run).is_validated
