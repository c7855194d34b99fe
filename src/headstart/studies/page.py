"""From ``study.json`` and the run folders beside it to one self-contained page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from headstart.contracts import FEW_TO_CHOOSE_BY
from headstart.errors import RunError
from headstart.files import parse_json, read_bounded, reading
from headstart.report import charts, curves
from headstart.report.change_chart import ChangeChart, change_chart
from headstart.report.learning import learning_curves
from headstart.report.page import render, write_page
from headstart.runs.run import Run
from headstart.studies.ledger import MAX_BYTES
from headstart.studies.words import (
    described_seed,
    discarded_finetuning,
    interval,
    lesson_sentences,
    published_sentence,
    seeds_sentence,
    signed,
    stage_sentence,
    study_commands,
    was_kept,
    weak_class_sentences,
)
from headstart.wording import duration, percent, percent_short

VARIANTS_FOR_A_CURVE = 4
"""From this number of variants on, a stage shows the accuracy of each against its training time."""


def write_study_page(folder: Path) -> Path:
    """Write ``study.html``, whole or not at all.

    Raises:
        RunError: A file is missing or damaged, or the page can't be written.
    """
    study = _read(folder / "study.json")
    seeds = sorted({row["seed"] for row in study["stages"]})
    seed = described_seed(study)
    rows = [row for row in study["stages"] if row["seed"] == seed]
    main = [row for row in rows if not row["aside"]]
    page = render(
        "study.html.jinja",
        study=study,
        commands=study_commands(study) if rows else [],
        seeds=seeds,
        seed=seed,
        main=main,
        best=max(main, key=lambda row: row["val"]["accuracy"], default=None),
        seconds=sum(row["seconds_of_all_variants"] for row in study["stages"]),
        ladder=_ladder(main),
        published=any("accuracy" in row["published"] for row in main),
        overview=_overview(main),
        stages=[_stage(folder, row, study) for row in rows],
        lesson=[pair for pair in study["lesson"] if pair["seed"] == seed and not pair["same_run"]],
        lesson_chart=_lesson_chart(study["lesson"], seed),
        lesson_sentences=lesson_sentences(study, seed),
        signed=signed,
        interval=interval,
        few=FEW_TO_CHOOSE_BY,
    )
    place = folder / "study.html"
    write_page(place, page)
    return place


def _stage(folder: Path, row: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of one stage: everything for one seed, the accuracy for all seeds."""
    accuracies = [other["test"]["accuracy"] for other in study["stages"] if other["name"] == row["name"]]
    changed = row["against"] if row["against"] and not row["against"]["same_run"] else None
    return {
        "row": row,
        "sentence": stage_sentence(row),
        "published": published_sentence(row, study) if not row["aside"] else "",
        "weak": weak_class_sentences(row),
        "curves": _curves(folder / row["run"], row["best_epoch"]),
        "discarded": discarded_finetuning(row),
        "changed": changed,
        "per_class": _per_class(changed) if changed else None,
        "cost": _cost_curve(row["variants"]),
        "kept": was_kept(row),
        "seeds": {"count": len(accuracies), "median": median(accuracies)} if len(accuracies) > 1 else None,
        "seeds_sentence": seeds_sentence(study, row["name"]),
    }


def _curves(run: Path, best_epoch: int) -> dict[str, Any] | None:
    history = Run(run).history()
    curves = learning_curves(history, best_epoch)
    return curves and curves | {"history": history}


def _ladder(rows: Sequence[Mapping[str, Any]]) -> charts.BarChart | None:
    """Return the accuracy of each stage beside the published one, where there is one."""
    if not rows:
        return None
    chart = charts.bar_chart(
        [row["name"] for row in rows],
        {
            "precision": [row["test"]["accuracy"] for row in rows],
            "recall": [row["published"].get("accuracy", 0.0) for row in rows],
        },
        number=lambda share: percent(share, 1) if 0 < share < 1 else percent_short(share),
    )
    return replace(chart, rows=[replace(row, bars=[bar for bar in row.bars if bar[2] > 0]) for row in chart.rows])


def _overview(rows: Sequence[Mapping[str, Any]]) -> ChangeChart | None:
    changes = [
        (row["name"], row["against"]["accuracy_change"]["value"], *row["against"]["accuracy_change"]["ci95"])
        for row in rows
        if row["against"] and not row["against"]["same_run"]
    ]
    return change_chart(changes) if changes else None


def _per_class(changed: Mapping[str, Any]) -> dict[str, Any] | None:
    known = {name: row for name, row in changed["per_class"].items() if row["f1_change"]}
    if not known:
        return None
    lines = [(name, row["f1_change"]["value"], *row["f1_change"]["ci95"]) for name, row in known.items()]
    return {"chart": change_chart(lines), "table": known}


def _lesson_chart(lesson: Sequence[Mapping[str, Any]], seed: int) -> ChangeChart | None:
    changes = [
        (pair["what"], pair["accuracy_change"]["value"], *pair["accuracy_change"]["ci95"])
        for pair in lesson
        if pair["seed"] == seed and not pair["same_run"]
    ]
    return change_chart(changes) if changes else None


def _cost_curve(variants: Sequence[Mapping[str, Any]]) -> curves.CurveChart | None:
    """Return accuracy on validation against training time, a mark for each variant."""
    if len(variants) < VARIANTS_FOR_A_CURVE:
        return None
    marks = sorted((variant["seconds"], variant["val_accuracy"], variant["name"]) for variant in variants)
    ticks = charts.nice_ticks(0.0, max(seconds for seconds, *_ in marks))
    return curves.curve_chart(
        {"": [(seconds, accuracy) for seconds, accuracy, _ in marks]},
        styles=["validation"],
        x_ticks={tick: duration(tick) if tick else "0" for tick in ticks},
        number=lambda share: percent(share, 1),
        marks=marks,
    )


def _read(path: Path) -> dict[str, Any]:
    again = "Run the study again with --resume."
    with reading(path, RunError, again):
        found = read_bounded(path, at_most=MAX_BYTES)
    try:
        content: dict[str, Any] = parse_json(found)
        missing = {"stages", "lesson", "data", "backbone"} - content.keys()
    except (ValueError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}. {again}") from None
    if missing:
        raise RunError(f"{path} lacks {', '.join(sorted(missing))}. {again}")
    return content
