"""What each stage of a study changed, image by image, and what the preprocessing alone does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.studies.ledger import Ledger
from headstart.studies.plan import Plan
from headstart.workflows.compare import compare


def compare_with_before(ledger: Ledger, seed: int, plan: Plan, families: Sequence[str]) -> None:
    """Compare each main stage with the finished one that it goes on from, where that is not done yet."""
    for row in ledger.rows:
        before = _before(row["name"], seed, ledger, plan, families)
        if row["seed"] != seed or row["aside"] or before is None:
            continue
        runs = [before["run"], row["run"]]
        known = row["against"]
        # A stage that was added in between may have kept the run that was compared with before.
        compared = known if known and known["runs"] == runs else _compared(ledger.folder, *runs)
        row["against"] = compared | {"stage": before["name"], "runs": runs}


def _before(name: str, seed: int, ledger: Ledger, plan: Plan, families: Sequence[str]) -> dict[str, Any] | None:
    """Return the row of the stage that this one starts from, or of the nearest finished one ahead of that."""
    start = plan.stage(name).start_for(families)
    while start is not None:
        row = ledger.row(start, seed)
        if row is not None:
            return row
        start = plan.stage(start).start_for(families)
    return ledger.before(name, seed)


def _compared(folder: Path, before: str, after: str) -> dict[str, Any]:
    """Return the paired comparison of two runs on the test split; without differences where they are one run."""
    if before == after:
        return {"same_run": True}
    pair = compare([folder / before, folder / after], progress=False).pairs[0]
    kept = ("verdict", "accuracy_change", "macro_f1_change", "mcnemar", "train_seconds_ratio", "per_class")
    return {"same_run": False, **{key: pair[key] for key in kept}}


def tell_lesson(ledger: Ledger, seed: int, plan: Plan) -> None:
    """Compare what the preprocessing alone changes, for each pair of stages that is complete."""
    for lesson in plan.lesson:
        unit, weights = ledger.row(lesson.unit, seed), ledger.row(lesson.weights, seed)
        known = any((told["what"], told["seed"]) == (lesson.what, seed) for told in ledger.lesson)
        if unit and weights and not known:
            sides = {
                side: {"stage": row["name"], "run": row["run"]}
                | {f"{split}_accuracy": row[split]["accuracy"] for split in ("val", "test")}
                for side, row in (("unit", unit), ("weights", weights))
            }
            found = _compared(ledger.folder, unit["run"], weights["run"])
            ledger.lesson.append({"what": lesson.what, "seed": seed, **sides, **found})
    # A pair whose run was removed and made again comes last, and is told in its place.
    places = {lesson.what: place for place, lesson in enumerate(plan.lesson)}
    ledger.lesson.sort(key=lambda told: (told["seed"], places.get(told["what"], len(places))))
