"""``headstart.study``: what is asked for, checked, and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import api
from headstart.compute.session import open_session
from headstart.contracts import keys_of, number_of_keys, value_of
from headstart.errors import InputError
from headstart.files import expanded
from headstart.recipe.schema import Recipe
from headstart.recipe.sections import DataRecipe
from headstart.studies.checks import check_overrides, refuse_early
from headstart.studies.ledger import open_ledger
from headstart.studies.plan import load_plan
from headstart.studies.run import FROM_PYTHON, run_stages
from headstart.studies.settings import Settings


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

    __getitem__, __iter__, __len__ = value_of, keys_of, number_of_keys


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
    command: str = FROM_PYTHON,
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
    data, data_dir = str(data), expanded(data_dir).resolve() if data_dir is not None else None
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
    from headstart.models.catalogue import full_name, list_backbones

    with open_session(command=command, device=device, threads=threads, progress=progress) as session:
        named = DataRecipe(name=data, limit=limit)
        settings = Settings(
            plan=checked,
            data=data,
            limit=limit,
            backbone=full_name(backbone or checked.backbone),
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
        for info in list_backbones(settings.backbone) if settings.overrides.get("weights", "auto") == "auto" else []:
            if info.name == settings.backbone and not info.available:
                session.terminal.say(f"The weights of {info.name} are not on this machine: {info.obtain}.")
        run_stages(chosen, seeds, ledger, settings)
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
