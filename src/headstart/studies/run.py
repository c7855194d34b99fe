"""A study from its first stage to its page: train each variant, let validation choose, open the test split once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart import api
from headstart.contracts import FEW_TO_CHOOSE_BY
from headstart.errors import HeadstartError, StoppedError, TrainingError, WeightsError
from headstart.recipe.schema import Recipe
from headstart.runs.run import Run
from headstart.studies.changes import compare_with_before, tell_lesson
from headstart.studies.ledger import Ledger
from headstart.studies.page import write_study_page
from headstart.studies.plan import ONLY, Stage
from headstart.studies.rows import (
    VariantRun,
    chosen_variant,
    known_runs,
    lead_to_same_run,
    read_variant,
    stage_row,
    weakest_classes,
)
from headstart.studies.settings import Settings, stage_recipe
from headstart.wording import counted

FROM_PYTHON = "headstart.study"
"""Recorded as the command of a study that Python called."""


def run_stages(stages: Sequence[Stage], seeds: Sequence[int], ledger: Ledger, settings: Settings) -> None:
    """Run the stages for each seed, and write ``study.json`` and ``study.html`` after each.

    Raises:
        TrainingError: A stage could not be finished; the message names it, and the others stay.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    for seed in seeds:
        for stage in stages:
            _finish_stage(stage, seed, ledger, settings)
    ledger.failed = None
    _write(ledger)


def _finish_stage(stage: Stage, seed: int, ledger: Ledger, settings: Settings) -> None:
    """Run one stage; a failure is written down beside the finished ones, and raised again with the stage's name."""
    settings.session.terminal.say(f"\n{stage.name}: {stage.what} (seed {seed})")
    command = _to_go_on(settings.session.command)
    try:
        row = _run_stage(stage, seed, ledger, settings)
    except StoppedError:
        raise StoppedError(f"Stopped in stage '{stage.name}'; nothing is lost. Go on with: {command}") from None
    except Exception as error:
        told = str(error) if isinstance(error, HeadstartError) else f"{type(error).__name__}: {error}"
        kind = type(error) if isinstance(error, HeadstartError) else TrainingError
        if not any(ledger.folder.glob("seed-*/")):
            # What was refused before anything was made leaves nothing to go on with.
            raise kind(f"Stage '{stage.name}': {told}") from error
        ledger.failed = {"stage": stage.name, "seed": seed, "error": told}
        _write(ledger)
        finished = ", ".join(known["name"] for known in ledger.rows if known["seed"] == seed) or "none"
        raise kind(
            f"Stage '{stage.name}' failed: {told}\nFinished, and kept in {ledger.folder}: {finished}. "
            f"Go on with: {command}"
        ) from error
    ledger.failed = None
    ledger.put(row)
    compare_with_before(ledger, seed, settings.plan, settings.families)
    tell_lesson(ledger, seed, settings.plan)
    _write(ledger)
    settings.session.terminal.say(
        f"{stage.name}: {row['test']['accuracy']:.2%} on test, {row['val']['accuracy']:.2%} on validation"
        + (f"; validation chose {row['variant']}" if row["variant"] else "")
    )


def _to_go_on(command: str) -> str:
    """Return what goes on with a study: the command again with --resume, or the call from Python."""
    if command == FROM_PYTHON:
        return f"{command}(..., resume=True)"
    return command if "--resume" in command.split() else f"{command} --resume"


def _run_stage(stage: Stage, seed: int, ledger: Ledger, settings: Settings) -> dict[str, Any]:
    place = ledger.folder / f"seed-{seed}"
    weakest: list[str] = []
    if stage.weakest_needed:
        before = ledger.before(stage.name, seed)
        assert before is not None, "refused early"
        weakest = weakest_classes(before["val"]["per_class"], stage.weakest_needed)
    runs: list[VariantRun] = []
    missing: dict[str, str] = {}
    for name, change in stage.variants_for(settings.families).items():
        recipe = stage_recipe(stage, change, seed, ledger, settings, weakest)
        own = place / stage.name if name == ONLY else place / stage.name / name
        try:
            runs.append(_train_variant(name, recipe, own, place, settings))
        except WeightsError as error:
            if not stage.may_lack_weights:
                raise
            missing[name] = str(error).splitlines()[0]
            settings.session.terminal.say(f"{name} is left out: {missing[name]}")
    if not runs:
        raise WeightsError(f"none of its variants has weights here. {' '.join(missing.values())}")
    best = chosen_variant(runs)
    if not Run(best.path).is_complete:
        api.evaluate(
            best.path,
            data=settings.data,
            data_dir=settings.data_dir,
            threads=settings.threads,
            device=settings.device,
            command=settings.session.command,
            progress=settings.session.terminal.enabled,
        )
    row = stage_row(stage, seed, best, runs, folder=ledger.folder, missing=missing, weakest=weakest)
    # What was published of other images says nothing about these.
    return row if settings.facts.name == settings.plan.data else row | {"published": {}}


def _train_variant(name: str, recipe: Recipe, own: Path, place: Path, settings: Settings) -> VariantRun:
    """Train a variant, or recognise it: in its own folder, or as an earlier run of the same recipe."""
    run, say = Run(own), settings.session.terminal.say
    shown = own.relative_to(place.parent)
    begun = run.recipe() if run.is_started else None
    if begun is None:
        for path, known in known_runs(place):
            if lead_to_same_run(known, recipe):
                Run(path).check_same_data(settings.facts)
                say(f"{shown}: {path.relative_to(place.parent)} is a run of the same recipe")
                return read_variant(name, path, reused=True)
    elif lead_to_same_run(begun, recipe):
        # Words may have changed since, in the plan or with a newer headstart. Where the data are matters as long as the
        # run has to read them.
        recipe = begun if run.is_validated else begun.model_copy(update={"data": recipe.data})
    if begun == recipe and run.is_validated:
        run.check_same_data(settings.facts)
        say(f"{shown}: finished before")
    else:
        metrics = api.train(
            recipe,
            out=own,
            sealed=True,
            resume=True,
            data_dir=settings.data_dir,
            threads=settings.threads,
            device=settings.device,
            command=settings.session.command,
            progress=settings.session.terminal.enabled,
        )
        if metrics.val.n < FEW_TO_CHOOSE_BY:
            say(f"Validation has only {counted(metrics.val.n, 'image')}, so what it chooses is mostly chance.")
    # A study makes many runs, and nothing goes on from the checkpoints of a finished one.
    run.drop_checkpoints()
    return read_variant(name, own, reused=False)


def _write(ledger: Ledger) -> None:
    ledger.write()
    write_study_page(ledger.folder)
