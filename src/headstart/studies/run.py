"""A study from its first stage to its page: train each variant, let validation choose, open the test split once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from headstart.compute.device import pick_device
from headstart.contracts import FEW_TO_CHOOSE_BY
from headstart.data.dataset import Dataset, load_dataset
from headstart.errors import (
    HeadstartError,
    InputError,
    RecipeError,
    RunError,
    StoppedError,
    TrainingError,
    WeightsError,
)
from headstart.models.catalogue import full_name
from headstart.recipe.schema import Recipe, differences, load_recipe
from headstart.runs.environment import check_same_data
from headstart.runs.run import RunFolder
from headstart.studies.changes import compare_with_before, tell_lesson
from headstart.studies.ledger import Ledger, open_ledger
from headstart.studies.page import write_study_page
from headstart.studies.plan import ONLY, Plan, Stage, has_section, load_plan, resolve
from headstart.studies.rows import (
    VariantRun,
    chosen_variant,
    known_runs,
    lead_to_same_run,
    read_variant,
    stage_row,
    weakest_classes,
)
from headstart.terminal import Terminal
from headstart.training.material import split_checked
from headstart.workflows.train import evaluate, train_only

_FROM_PYTHON = "headstart.study"
_DECIDED_BY = {
    "data": "DATA and --limit. Give those instead",
    "data.name": "DATA. Give that instead",
    "data.limit": "--limit. Give that instead",
    "backbone": "--backbone. Give that instead",
    "seed": "--seed. Give that instead",
    "preprocessing": "the stages, which are about it",
    "description": "the stages",
}


@dataclass(frozen=True)
class _Settings:
    """What holds for all stages."""

    plan: Plan
    data: str
    limit: int | None
    backbone: str
    dataset: Dataset
    overrides: dict[str, Any]
    data_dir: Path | None
    threads: int | None
    device: str | None
    command: str
    terminal: Terminal

    @property
    def families(self) -> list[str]:
        return self.plan.families_of(self.backbone)


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
) -> dict[str, Any]:
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
    data, data_dir = str(data), Path(data_dir) if data_dir is not None else None
    if full and limit is not None:
        raise InputError(f"--full uses all training images and --limit {limit} does not. Keep one of the two.")
    if isinstance(seeds, int) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be a list of numbers, each only once, e.g. [0, 1, 2], but is {seeds!r}.")
    if isinstance(stages, str) or (stages is not None and not stages):
        raise InputError(f'stages must be a list of names, e.g. ["baseline"], or None for all, but is {stages!r}.')
    _check_overrides(overrides or {})
    # Only to refuse one that is not here, before a folder is made for it.
    pick_device(device)
    checked = load_plan(Path(plan) if plan is not None else None)
    if limit is None and not full and data == checked.data:
        limit = checked.limit
    chosen = checked.select(stages)
    settings = _Settings(
        plan=checked,
        data=data,
        limit=limit,
        backbone=full_name(backbone or checked.backbone),
        dataset=load_dataset(data, limit=limit, data_dir=data_dir, progress=progress),
        overrides=dict(overrides or {}),
        data_dir=data_dir,
        threads=threads,
        device=device,
        command=command,
        terminal=Terminal(enabled=progress),
    )
    ledger = open_ledger(
        Path(out), _header(settings, plan), order=[stage.name for stage in checked.stages], resume=resume
    )
    _refuse_early(chosen, ledger, settings, seeds)
    for seed in seeds:
        for stage in chosen:
            _finish_stage(stage, seed, ledger, settings)
    ledger.failed = None
    _write(ledger)
    return ledger.as_dict()


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse keys that the study's own record depends on."""
    for key in overrides:
        if key in _DECIDED_BY:
            raise InputError(f"--set {key}: in a study that is decided by {_DECIDED_BY[key]}.")


def _header(settings: _Settings, plan: Path | str | None) -> dict[str, Any]:
    dataset = settings.dataset
    return {
        "description": settings.plan.description,
        "data": dataset.name,
        "data_sha256": dataset.sha256,
        "backbone": settings.backbone,
        "limit": settings.limit,
        "published_with": {"backbone": settings.plan.backbone, "limit": settings.plan.limit},
        "n_train_and_val": len(dataset.train),
        "n_test": len(dataset.sealed_test),
        "classes": list(dataset.class_names),
        "command": settings.command,
        "data_argument": settings.data,
        "plan": plan and str(plan),
        "overrides": settings.overrides,
    }


def _refuse_early(stages: Sequence[Stage], ledger: Ledger, settings: _Settings, seeds: Sequence[int]) -> None:
    """Refuse what can be seen to be wrong before the first hours of training."""
    dataset, unused = settings.dataset, set(settings.overrides)
    for stage in stages:
        for key in settings.overrides:
            if stage.tries(key, settings.families):
                raise RecipeError(
                    f"--set {key}: stage '{stage.name}' tries several values of it, to let validation choose. Leave "
                    "that stage out with --stages, or the key."
                )
    for seed, (place, stage) in product(seeds, enumerate(stages)):
        earlier = any(not before.aside for before in stages[:place]) or ledger.before(stage.name, seed)
        if stage.weakest_needed and not earlier:
            raise InputError(
                f"Stage '{stage.name}' changes the classes that the stage before it finds weakest, but none is "
                "finished here and none is asked for. Add one before it to --stages."
            )
        if stage.weakest_needed > len(dataset.class_names):
            raise RecipeError(
                f"Stage '{stage.name}' names the {stage.weakest_needed} weakest classes, but {dataset.name} has only "
                f"{len(dataset.class_names)}: {', '.join(dataset.class_names)}. Leave it out of --stages."
            )
        stand_ins = list(dataset.class_names)
        for name, change in stage.variants_for(settings.families).items():
            where = f"Stage '{stage.name}'" + ("" if name == ONLY else f", variant '{name}'")
            try:
                recipe = _recipe(stage, change, seed, ledger, settings, stand_ins)
                split_checked(recipe, dataset)
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from None
            unused = {key for key in unused if not has_section(recipe.model_dump(), key)}
            start = stage.start_for(settings.families)
            if not stage.weakest_needed and (start is None or ledger.row(start, seed)):
                _check_unchanged(where, name, recipe, ledger.row(stage.name, seed), ledger.folder)
    if unused:
        raise RecipeError(f"--set {min(unused)}: no stage that is asked for has that section in its recipe.")


def _check_unchanged(where: str, variant: str, recipe: Recipe, row: dict[str, Any] | None, folder: Path) -> None:
    """Refuse to go on with a study one of whose finished stages would now be another one."""
    for known in row["variants"] if row else []:
        # A variant whose run was removed is made again, or not asked for.
        own = folder / known["run"] / "recipe.yaml"
        if known["name"] == variant and own.is_file():
            earlier = load_recipe(str(own))
            if not lead_to_same_run(earlier, recipe):
                told = differences(earlier, recipe.model_copy(update={"description": earlier.description}))
                raise RunError(
                    f"{where} is finished in {folder} with another recipe: {told}. Give --set and --plan as they were, "
                    "or another folder with --out."
                )


def _finish_stage(stage: Stage, seed: int, ledger: Ledger, settings: _Settings) -> None:
    """Run one stage; a failure is written down beside the finished ones, and raised again with the stage's name."""
    settings.terminal.say(f"\n{stage.name}: {stage.what} (seed {seed})")
    command = _to_go_on(settings.command)
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
    settings.terminal.say(
        f"{stage.name}: {row['test']['accuracy']:.2%} on test, {row['val']['accuracy']:.2%} on validation"
        + (f"; validation chose {row['variant']}" if row["variant"] else "")
    )


def _to_go_on(command: str) -> str:
    """Return what goes on with a study: the command again with --resume, or the call from Python."""
    if command == _FROM_PYTHON:
        return f"{command}(..., resume=True)"
    return command if "--resume" in command.split() else f"{command} --resume"


def _run_stage(stage: Stage, seed: int, ledger: Ledger, settings: _Settings) -> dict[str, Any]:
    place = ledger.folder / f"seed-{seed}"
    weakest: list[str] = []
    if stage.weakest_needed:
        before = ledger.before(stage.name, seed)
        assert before is not None, "refused early"
        weakest = weakest_classes(before["val"]["per_class"], stage.weakest_needed)
    runs: list[VariantRun] = []
    missing: dict[str, str] = {}
    for name, change in stage.variants_for(settings.families).items():
        recipe = _recipe(stage, change, seed, ledger, settings, weakest)
        own = place / stage.name if name == ONLY else place / stage.name / name
        try:
            runs.append(_train_variant(name, recipe, own, place, settings))
        except WeightsError as error:
            if not stage.may_lack_weights:
                raise
            missing[name] = str(error).splitlines()[0]
            settings.terminal.say(f"{name} is left out: {missing[name]}")
    if not runs:
        raise WeightsError(f"none of its variants has weights here. {' '.join(missing.values())}")
    best = chosen_variant(runs)
    if not RunFolder(best.path).is_complete:
        evaluate(
            best.path,
            data=settings.data,
            data_dir=settings.data_dir,
            threads=settings.threads,
            device=settings.device,
            command=settings.command,
            progress=settings.terminal.enabled,
        )
    row = stage_row(stage, seed, best, runs, folder=ledger.folder, missing=missing, weakest=weakest)
    # What was published of other images says nothing about these.
    return row if settings.dataset.name == settings.plan.data else row | {"published": {}}


def _recipe(
    stage: Stage, change: dict[str, Any], seed: int, ledger: Ledger, settings: _Settings, weakest: Sequence[str] = ()
) -> Recipe:
    """Return a variant's recipe, begun from what the stage that it starts from chose."""
    start = stage.start_for(settings.families)
    base: Recipe | None = None
    if start is not None:
        row = ledger.row(start, seed)
        if row is not None:
            base = load_recipe(str(ledger.folder / row["run"] / "recipe.yaml"))
        else:
            before = settings.plan.stage(start)
            variants = list(before.variants_for(settings.families).values())
            base = _recipe(before, variants[0], seed, ledger, settings)
            if len({variant.get("backbone") for variant in variants}) > 1:
                # None of them has been chosen yet.
                base = base.model_copy(update={"backbone": settings.backbone})
    common = {
        "seed": seed,
        "data": {"name": settings.data, "limit": settings.limit},
        "backbone": settings.backbone,
    }
    return resolve(stage, change, base=base, settings=common, overrides=settings.overrides, weakest=weakest)


def _train_variant(name: str, recipe: Recipe, own: Path, place: Path, settings: _Settings) -> VariantRun:
    """Train a variant, or recognise it: in its own folder, or as an earlier run of the same recipe."""
    shown = own.relative_to(place.parent)
    begun = load_recipe(str(own / "recipe.yaml")) if (own / "recipe.yaml").is_file() else None
    is_trained = (own / "validation.json").is_file()
    if begun is None:
        for path, known in known_runs(place):
            if lead_to_same_run(known, recipe):
                check_same_data(RunFolder(path), settings.dataset)
                settings.terminal.say(f"{shown}: {path.relative_to(place.parent)} is a run of the same recipe")
                return read_variant(name, path, reused=True)
    elif lead_to_same_run(begun, recipe):
        # Words may have changed since, in the plan or with a newer headstart. Where the data are matters as long as the
        # run has to read them.
        recipe = begun if is_trained else begun.model_copy(update={"data": recipe.data})
    if begun == recipe and is_trained:
        check_same_data(RunFolder(own), settings.dataset)
        settings.terminal.say(f"{shown}: finished before")
    else:
        val = train_only(
            recipe,
            out=own,
            data_dir=settings.data_dir,
            threads=settings.threads,
            device=settings.device,
            command=settings.command,
            progress=settings.terminal.enabled,
        )
        if val["n"] < FEW_TO_CHOOSE_BY:
            settings.terminal.say(f"Validation has only {val['n']} images, so that what it chooses is mostly chance.")
    # A study makes many runs, and nothing goes on from the checkpoints of a finished one.
    RunFolder(own).drop_checkpoints()
    return read_variant(name, own, reused=False)


def _write(ledger: Ledger) -> None:
    ledger.write()
    write_study_page(ledger.folder)
