"""A study from its first stage to its page: train each variant, let validation choose, open the test split once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import api
from headstart.compute.session import open_session
from headstart.contracts import FEW_TO_CHOOSE_BY
from headstart.errors import HeadstartError, InputError, StoppedError, TrainingError, WeightsError
from headstart.recipe.schema import DataRecipe, Recipe, load_recipe
from headstart.runs.run import Run
from headstart.studies.changes import compare_with_before, tell_lesson
from headstart.studies.checks import check_overrides, refuse_early
from headstart.studies.ledger import Ledger, open_ledger
from headstart.studies.page import write_study_page
from headstart.studies.plan import ONLY, Stage, load_plan
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

_FROM_PYTHON = "headstart.study"


@dataclass(frozen=True, eq=False)
class Study(Mapping[str, Any]):
    """What a study found: the content of ``study.json``, which can be read by key too.

    Attributes:
        header: Data, backbone, limit, plan and command of the study.
        stages: One row for each finished stage and seed.
        lesson: One row for each pair of stages that differ in the preprocessing alone, and seed.
        failed: Stage that could not be finished, and why.
    """

    header: dict[str, Any]
    stages: list[dict[str, Any]]
    lesson: list[dict[str, Any]]
    failed: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``study.json``."""
        return {**self.header, "failed": self.failed, "stages": self.stages, "lesson": self.lesson}

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())


def study(
    data: str | Path = "cifar10",
    *,
    backbone: str | None = None,
    limit: int | None = None,
    full: bool = False,
    stages: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    plan: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: Path | str = "study",
    resume: bool = False,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    device: str | None = None,
    command: str = _FROM_PYTHON,
    progress: bool = True,
) -> Study:
    """Run a study stage by stage, and write ``study.json`` and ``study.html`` after each.

    Each variant of a stage is trained in a run folder of its own. Validation chooses one of them, and that one alone is
    measured on the test split.

    Args:
        data: Data set.
        backbone: A name that ``headstart backbones`` lists; the plan's own when None.
        limit: Keep the first so many training images; the plan's own number on cifar10, and else all, when None.
        full: Use all training images.
        stages: Names of the stages to run, all of them when None. A stage that starts from one that is neither among
            them nor finished starts from the first variant of that one.
        seeds: Each runs all the stages anew.
        plan: YAML file with other stages than those of the published study.
        overrides: Dotted keys of the recipe with their values, for every stage that has the key's section.
        out: Folder of the study.
        resume: Go on with the study in ``out``: what is finished is kept, what is half-trained is finished.
        data_dir: Local copy of the data set, instead of a download.
        threads: CPU threads; torch's default when None.
        device: ``cpu``, ``cuda`` or ``mps``; the best one here when None.
        command: What the user typed, for the record.
        progress: Show progress on stderr.

    Returns:
        The content of ``study.json``.

    Raises:
        InputError: Something given is wrong; what was finished before stays.
        TrainingError: A stage could not be finished; the message names it, and the others stay.
        StoppedError: Stopped by Ctrl-C after saving.

    Example:
        >>> found = study("cifar10", backbone="tf_efficientnet_lite0.in1k", stages=["baseline"])  # doctest: +SKIP
        >>> found["stages"][0]["test"]["accuracy_ci95"]  # doctest: +SKIP
        [..., ...]
    """
    data, data_dir = str(data), Path(data_dir).expanduser().resolve() if data_dir is not None else None
    if full and limit is not None:
        raise InputError(f"--full uses all training images and --limit {limit} does not. Keep one of the two.")
    if isinstance(seeds, int) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be a list of numbers, each only once, e.g. [0, 1, 2], but is {seeds!r}.")
    if isinstance(stages, str) or (stages is not None and not stages):
        raise InputError(f'stages must be a list of names, e.g. ["baseline"], or None for all, but is {stages!r}.')
    check_overrides(overrides or {})
    checked = load_plan(Path(plan) if plan is not None else None)
    if limit is None and not full and data == checked.data:
        limit = checked.limit
    chosen = checked.select(stages)
    with open_session(command=command, device=device, threads=threads, progress=progress) as session:
        named = DataRecipe(name=data, limit=limit)
        settings = Settings(
            plan=checked,
            data=data,
            limit=limit,
            backbone=api.backbone_name(backbone or checked.backbone),
            facts=api.check(Recipe(data=named, finetune=None), data_dir=data_dir, progress=progress),
            overrides=dict(overrides or {}),
            data_dir=data_dir,
            threads=threads,
            device=device,
            session=session,
        )
        order = [stage.name for stage in checked.stages]
        ledger = open_ledger(Path(out), _header(settings, plan), order=order, resume=resume)
        refuse_early(chosen, ledger, settings, seeds)
        for seed in seeds:
            for stage in chosen:
                _finish_stage(stage, seed, ledger, settings)
        ledger.failed = None
        _write(ledger)
    return Study(ledger.header, ledger.rows, ledger.lesson, ledger.failed)


def _header(settings: Settings, plan: Path | str | None) -> dict[str, Any]:
    facts = settings.facts
    return {
        "description": settings.plan.description,
        "data": facts.name,
        "data_sha256": facts.sha256,
        "backbone": settings.backbone,
        "limit": settings.limit,
        "published_with": {"backbone": settings.plan.backbone, "limit": settings.plan.limit},
        "n_train_and_val": facts.n_train + facts.n_val,
        "n_test": facts.n_test,
        "classes": list(facts.classes),
        "command": settings.session.command,
        "data_argument": settings.data,
        "plan": plan and str(plan),
        "overrides": settings.overrides,
    }


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
    if command == _FROM_PYTHON:
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
    begun = load_recipe(str(own / "recipe.yaml")) if run.is_started else None
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
            say(f"Validation has only {metrics.val.n} images, so what it chooses is mostly chance.")
    # A study makes many runs, and nothing goes on from the checkpoints of a finished one.
    run.drop_checkpoints()
    return read_variant(name, own, reused=False)


def _write(ledger: Ledger) -> None:
    ledger.write()
    write_study_page(ledger.folder)
