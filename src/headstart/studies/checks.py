"""What is refused before the first hours of a study's training."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from headstart import api
from headstart.contracts import listed
from headstart.errors import InputError, RecipeError, RunError
from headstart.recipe.schema import Recipe, differences
from headstart.runs.run import Run
from headstart.studies.ledger import Ledger
from headstart.studies.plan import ONLY, Stage, has_section
from headstart.studies.rows import lead_to_same_run
from headstart.studies.settings import Settings, stage_recipe

_DECIDED_BY = {
    "data": "DATA and --limit. Give those instead",
    "data.name": "DATA. Give that instead",
    "data.limit": "--limit. Give that instead",
    "backbone": "--backbone. Give that instead",
    "seed": "--seed. Give that instead",
    "preprocessing": "the stages, which are about it",
    "description": "the stages",
}


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse keys that the study's own record depends on."""
    for key in overrides:
        if key in _DECIDED_BY:
            raise InputError(f"--set {key}: in a study that is decided by {_DECIDED_BY[key]}.")


def refuse_early(stages: Sequence[Stage], ledger: Ledger, settings: Settings, seeds: Sequence[int]) -> None:
    """Refuse what can be seen to be wrong before the first hours of training."""
    facts, unused = settings.facts, set(settings.overrides)
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
        if stage.weakest_needed > len(facts.classes):
            raise RecipeError(
                f"Stage '{stage.name}' names the {stage.weakest_needed} weakest classes, but {facts.name} has only "
                f"{len(facts.classes)}: {listed(facts.classes)}. Leave it out of --stages."
            )
        stand_ins = list(facts.classes)
        for name, change in stage.variants_for(settings.families).items():
            where = f"Stage '{stage.name}'" + ("" if name == ONLY else f", variant '{name}'")
            try:
                recipe = stage_recipe(stage, change, seed, ledger, settings, stand_ins)
                api.check(recipe, data_dir=settings.data_dir, progress=False)
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
        own = Run(folder / known["run"])
        if known["name"] == variant and own.is_started:
            earlier = own.recipe()
            if not lead_to_same_run(earlier, recipe):
                told = differences(earlier, recipe.model_copy(update={"description": earlier.description}))
                raise RunError(
                    f"{where} is finished in {folder} with another recipe: {told}. Give --set and --plan as they were, "
                    "or another folder with --out."
                )
