"""What holds for all stages of a study, and the recipe that each variant of a stage leads to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.compute.session import Session
from headstart.recipe.schema import Recipe
from headstart.runs.run import Run
from headstart.studies.ledger import Ledger
from headstart.studies.plan import Plan, Stage, resolve
from headstart.workflows.check import DataFacts


@dataclass(frozen=True)
class Settings:
    """What holds for all stages; ``limit`` None is all training images, and ``overrides`` have dotted keys."""

    plan: Plan
    data: str
    limit: int | None
    backbone: str
    facts: DataFacts
    overrides: dict[str, Any]
    data_dir: Path | None
    threads: int | None
    device: str | None
    session: Session

    @property
    def families(self) -> list[str]:
        """Families of backbones that the backbone belongs to."""
        return self.plan.families_of(self.backbone)


def stage_recipe(
    stage: Stage, change: dict[str, Any], seed: int, ledger: Ledger, settings: Settings, weakest: Sequence[str] = ()
) -> Recipe:
    """Return a variant's recipe, begun from what the stage that it starts from chose."""
    start = stage.start_for(settings.families)
    base: Recipe | None = None
    if start is not None:
        row = ledger.row(start, seed)
        if row is not None:
            base = Run(ledger.folder / row["run"]).recipe()
        else:
            before = settings.plan.stage(start)
            variants = list(before.variants_for(settings.families).values())
            base = stage_recipe(before, variants[0], seed, ledger, settings)
            if len({variant.get("backbone") for variant in variants}) > 1:
                # None of them has been chosen yet.
                base = base.model_copy(update={"backbone": settings.backbone})
    common = {
        "seed": seed,
        "data": {"name": settings.data, "limit": settings.limit},
        "backbone": settings.backbone,
    }
    return resolve(stage, change, base=base, settings=common, overrides=settings.overrides, weakest=weakest)
