"""Train, measure, report: one run from recipe to page. The rooms that do the work don't know of each other."""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from headstart.compute.memory import give_back_freed_memory, peak_memory_mb
from headstart.compute.session import Session
from headstart.data.dataset import Dataset
from headstart.errors import RunError
from headstart.evaluation.evaluate import evaluate_run
from headstart.evaluation.samples import fed_samples
from headstart.evaluation.thumbnails import mistake_pixels
from headstart.evaluation.validation import validate_run
from headstart.recipe.schema import Recipe, differences, parse_recipe
from headstart.report.html import write_report
from headstart.report.mistakes import LARGEST_SIDE
from headstart.runs.folder import check_free, claim_run, reopen_run
from headstart.runs.records import PACKAGES, DataRecord, Environment, Metrics, Surroundings
from headstart.runs.run import Run
from headstart.training.fit import fit
from headstart.training.material import Material, check_without_data, prepare
from headstart.workflows.load import as_started, load_data
from headstart.workflows.plan import make_plan
from headstart.workflows.resolve import absolute_paths


def train_new(recipe: Recipe, out: Path, session: Session, *, data_dir: Path | None, sealed: bool = False) -> Metrics:
    """Start a run and take it to its end.

    With ``sealed`` it is measured on validation only, and the test split stays sealed.

    Raises:
        InputError: Something given is wrong; nothing was written.
        TrainingError: Training failed; the run can be resumed from its last checkpoint.
        StoppedError: Stopped by Ctrl-C after saving.
    """
    if session.processes.is_main:
        check_free(out)
    check_without_data(recipe, session.device)
    dataset = load_data(recipe, session.terminal, data_dir=data_dir)
    plan = None
    if recipe.budget:
        planned = make_plan(recipe, dataset, session)
        recipe, material, plan = planned.recipe, planned.material, planned.record
    else:
        enabled, processes = session.terminal.enabled, session.processes
        material = prepare(recipe, dataset, session.device, progress=enabled, processes=processes)
    # Only now is the folder made: whatever could be refused has been.
    environment = replace(_environment(recipe, material, session, data_dir), plan=plan)
    claimed = claim_run(out, recipe, environment, dataset.ledger) if session.processes.is_main else None
    with claimed or nullcontext(Run(out)) as run:
        session.processes.barrier()
        fit(recipe, material, run, session)
        return _measure(run, dataset, session, sealed=sealed)


def go_on(
    run: Run, session: Session, *, data_dir: Path | None, sealed: bool = False, recipe: Recipe | None = None
) -> Metrics:
    """Take a run that was started to its end; one that has reached it already gives its figures again.

    A ``recipe`` is one that the run must have.

    Raises:
        RunError: The run has another recipe, or one of its files is damaged.
        DataError: The run started from other data.
    """
    with reopen_run(run.path) if session.processes.is_main else nullcontext(run):
        begun, environment = run.recipe(), run.environment()
        if recipe is not None and (asked := _asked(begun, environment)) != recipe:
            raise RunError(
                f"{run.path} was trained with another recipe: {differences(asked, recipe)}. Give another folder."
            )
        place = data_dir or (Path(environment.data_dir) if environment.data_dir else None)
        dataset = as_started(run, load_data(begun, session.terminal, data_dir=place, run=run))
        if run.is_complete and not sealed:
            return run.metrics()
        if not run.is_trained:
            material = prepare(
                begun, dataset, session.device, progress=session.terminal.enabled, processes=session.processes
            )
            if session.processes.is_main:
                run.note_resumed(Surroundings(**session.surroundings(PACKAGES)))
            session.processes.barrier()
            fit(begun, material, run, session)
        return _measure(run, dataset, session, sealed=sealed)


def _asked(begun: Recipe, environment: Environment) -> Recipe:
    """Return the recipe that a run was asked for, before what it left out was chosen."""
    asked = (environment.plan or {}).get("asked")
    return parse_recipe(asked, "in environment.json") if isinstance(asked, dict) else absolute_paths(begun)


def _environment(recipe: Recipe, material: Material, session: Session, data_dir: Path | None) -> Environment:
    """Return what a stranger needs to judge and repeat the run, and what a resumed process needs to go on alike."""
    dataset = material.dataset
    return Environment(
        **session.surroundings(PACKAGES),
        seed=recipe.seed,
        data=DataRecord(
            name=dataset.name,
            sha256=dataset.sha256,
            source=dataset.source,
            limit=recipe.data.limit,
            n_train=len(material.train),
            n_val=len(material.val),
            n_test=len(dataset.sealed_test),
            licence=dataset.licence,
            files=dataset.ledger.counts() if dataset.ledger else None,
            copies=dataset.copies,
        ),
        data_dir=str(data_dir) if data_dir else None,
        weights=asdict(material.backbone.weights),
    )


def _measure(run: Run, dataset: Dataset, session: Session, *, sealed: bool) -> Metrics:
    """Measure the run in the main process; the others read what it has found."""
    if session.processes.is_main:
        metrics = _measure_alone(run, dataset, session, sealed=sealed)
    session.processes.barrier()
    if session.processes.is_main:
        return metrics
    return Metrics(val=run.validation()) if sealed else run.metrics()


def _measure_alone(run: Run, dataset: Dataset, session: Session, *, sealed: bool) -> Metrics:
    # Measuring needs memory of its own, in other pieces than training did.
    give_back_freed_memory()
    if sealed:
        return Metrics(val=validate_run(run, dataset, device=str(session.device)))
    with session.terminal.share("Measuring") as show:
        metrics = evaluate_run(
            run,
            dataset,
            command=session.command,
            abstain=run.recipe().evaluation.abstain,
            device=str(session.device),
            progress=show,
        )
    assert metrics.training is not None
    metrics = replace(
        metrics,
        total_seconds=round(time.time() - session.started, 1),
        training=replace(metrics.training, peak_rss_mb=round(peak_memory_mb(), 1)),
    )
    run.write_metrics(metrics)
    # Nothing goes on from the checkpoints of a trained run, and they are most of its bytes. With the page the run is
    # complete, and no later process looks after them.
    run.drop_checkpoints()
    write_report(run, mistake_pixels(dataset, at_least=LARGEST_SIDE), fed_samples(run.model, dataset))
    return metrics
