"""What a study does, as data: stages with their variants, and how each becomes an ordinary recipe."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.errors import RecipeError, nearest
from headstart.explain import explain
from headstart.recipe.read import read_yaml, read_yaml_file
from headstart.recipe.schema import Recipe, parse_recipe
from headstart.recipe.tree import Tree, apply_overrides, gives, merged

ONLY = "only"
"""The variant of a stage that has no variants."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a stage or a variant; it names a folder as well."""

_STRICT = ConfigDict(extra="forbid", frozen=True)
_WEAKEST = re.compile(r"\$weakest(\d+)")


class Published(BaseModel):
    """What the published study reports of the step, as shares of 1, and what is done otherwise here.

    ``accuracy`` and ``macro_f1`` are of the test split, ``val_accuracy`` is of validation.
    """

    model_config = _STRICT
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    val_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    macro_f1: Annotated[float, Field(ge=0, le=1)] | None = None
    note: str = ""
    differs: str = ""

    @model_validator(mode="after")
    def _on_test_too(self) -> "Published":
        if self.val_accuracy is not None and self.accuracy is None:
            raise ValueError("val_accuracy stands beside accuracy, which is missing")
        return self


class FamilyChange(BaseModel):
    """What is different in a stage for one family of backbones."""

    model_config = _STRICT
    start: str | None = None
    change: Tree = {}
    variants: dict[Name, Tree] | None = None


class Stage(BaseModel):
    """One step of a study; see ``recipes/study/stages.yaml`` for how the parts are put together."""

    model_config = _STRICT
    name: Name
    title: str
    what: str
    published: Published = Published()
    start: str | None = None
    change: Tree = {}
    variants: dict[Name, Tree] = {}
    families: dict[str, FamilyChange] = {}
    aside: bool = False
    may_lack_weights: bool = False

    @property
    def weakest_needed(self) -> int:
        """How many of the weakest classes the variants name."""
        found = _WEAKEST.findall(str([self.change, self.variants, [f.model_dump() for f in self.families.values()]]))
        return max(map(int, found), default=0)

    def start_for(self, families: Sequence[str]) -> str | None:
        """Return the stage whose chosen recipe this one begins with; the last family that names one decides."""
        starts = [own.start for own in self._of(families) if own.start]
        return starts[-1] if starts else self.start

    def variants_for(self, families: Sequence[str]) -> dict[str, Tree]:
        """Return each variant's change, the stage's own and the families' merged in, one after the other."""
        common = self.change
        for own in self._of(families):
            common = merged(common, own.change)
        variants = self._variants(families) or {ONLY: {}}
        return {name: merged(common, change) for name, change in variants.items()}

    def tries(self, key: str, families: Sequence[str]) -> bool:
        """Return whether the variants are about a dotted key of the recipe, or about something inside it."""
        return any(gives(variant, key) for variant in self._variants(families).values())

    def _variants(self, families: Sequence[str]) -> dict[str, Tree]:
        """Return the variants that the last family which has its own names, and else the stage's."""
        own = [family.variants for family in self._of(families) if family.variants is not None]
        return own[-1] if own else self.variants

    def _of(self, families: Sequence[str]) -> list[FamilyChange]:
        return [self.families[family] for family in families if family in self.families]


class Lesson(BaseModel):
    """Two stages that differ in the preprocessing alone."""

    model_config = _STRICT
    what: str
    unit: str
    weights: str


class Plan(BaseModel):
    """A whole study.

    Attributes:
        description: In a sentence.
        backbone: Of the published study, and the default.
        data: Name of the data set that the published figures are of.
        limit: How many training images of it are used unless something else is asked for.
        families: Patterns of backbones' names, by family.
        stages: In their order.
        lesson: Pairs of stages that differ in the preprocessing alone.
    """

    model_config = _STRICT
    description: str
    backbone: str
    data: str
    limit: Annotated[int, Field(ge=1)]
    families: dict[str, list[str]] = {}
    stages: Annotated[list[Stage], Field(min_length=1)]
    lesson: list[Lesson] = []

    @model_validator(mode="after")
    def _check_names(self) -> "Plan":
        earlier: list[str] = []
        for stage in self.stages:
            if stage.name in earlier:
                raise ValueError(f"two stages are called '{stage.name}'")
            starts = [stage.start, *(family.start for family in stage.families.values())]
            for start in starts:
                if start is not None and start not in earlier:
                    raise ValueError(
                        f"stage '{stage.name}' starts from '{start}', which is no stage before it."
                        f"{nearest(start, earlier)} Stages before it: {', '.join(earlier) or 'none'}"
                    )
            for family in stage.families:
                if family not in self.families:
                    raise ValueError(f"stage '{stage.name}' names family '{family}'. Known: {', '.join(self.families)}")
            earlier.append(stage.name)
        for name in (name for lesson in self.lesson for name in (lesson.unit, lesson.weights)):
            if name not in earlier:
                raise ValueError(f"the lesson names stage '{name}', which there is not.{nearest(name, earlier)}")
        return self

    def stage(self, name: str) -> Stage:
        """Return the stage of that name, which must exist."""
        return next(stage for stage in self.stages if stage.name == name)

    def families_of(self, backbone: str) -> list[str]:
        """Return the families that a backbone belongs to, in the plan's order."""
        return [name for name, patterns in self.families.items() if any(fnmatchcase(backbone, p) for p in patterns)]

    def select(self, names: Sequence[str] | None) -> list[Stage]:
        """Return the stages of these names, in the plan's own order; all of them for None.

        Raises:
            RecipeError: A name is none of a stage.
        """
        known = [stage.name for stage in self.stages]
        for name in names or []:
            if name not in known:
                raise RecipeError(f"There is no stage '{name}'.{nearest(name, known)} Stages: {', '.join(known)}.")
        return [stage for stage in self.stages if names is None or stage.name in names]


def load_plan(path: Path | None) -> Plan:
    """Read a plan, the shipped one for None, and check it.

    Raises:
        RecipeError: There is no such file, or it is no plan; every problem is named.
    """
    origin = str(path) if path else "study"
    shipped = files("headstart.recipes").joinpath("study/stages.yaml")
    absent = "Leave --plan out for the published study's own stages."
    what = f"Plan {origin}"
    tree = read_yaml_file(path, what, absent=absent) if path else read_yaml(shipped.read_bytes(), what)
    try:
        return Plan.model_validate(tree)
    except ValidationError as error:
        told = "\n  - ".join([f"Plan '{origin}' can't be used:", *explain(error, Plan)])
        raise RecipeError(
            f"{told}\nThe form of a plan is that of {shipped}, which begins with what its keys mean."
        ) from None


def resolve(
    stage: Stage,
    change: Tree,
    *,
    base: Recipe | None,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    weakest: Sequence[str] = (),
) -> Recipe:
    """Return the recipe of one variant of a stage.

    It begins with ``base``, or with headstart's defaults and the top-level keys of ``settings``. Names replace
    ``$weakest1`` and so on, as far as there are some.

    Raises:
        RecipeError: The stage, the key, what is allowed.
    """
    tree = merged(base.model_dump(mode="json") if base else settings, _named(change, weakest))
    apply_overrides(tree, {key: value for key, value in (overrides or {}).items() if has_section(tree, key)})
    tree["description"] = stage.what
    return parse_recipe(tree, f"stage {stage.name}")


def has_section(tree: Mapping[str, Any], key: str) -> bool:
    """Return whether a recipe takes a dotted key; one without fine-tuning takes none of fine-tuning's."""
    return tree.get(key.split(".")[0], True) is not None


def _named(change: Any, weakest: Sequence[str]) -> Any:
    """Put the names of classes in the place of ``$weakest1``, ..."""
    if isinstance(change, Mapping):
        return {_class_name(key, weakest): _named(value, weakest) for key, value in change.items()}
    return change


def _class_name(key: Any, weakest: Sequence[str]) -> Any:
    match = _WEAKEST.fullmatch(str(key))
    return weakest[int(match[1]) - 1] if match and int(match[1]) <= len(weakest) else key
