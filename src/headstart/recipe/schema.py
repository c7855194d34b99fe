"""Recipe: everything that decides a training run, as plain data.

A recipe is YAML, shipped under ``headstart/recipes`` or written by the user; ``--set key=value`` overrides single
values. Every error is reported at once, and an unknown key is answered with the nearest one.
"""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from headstart.errors import RecipeError, cut, nearest, short
from headstart.explain import explain
from headstart.recipe.read import read_overrides, read_yaml, read_yaml_file
from headstart.recipe.sections import (
    Budget,
    DataRecipe,
    EvaluationRecipe,
    FinetuneRecipe,
    HardwareRecipe,
    HeadRecipe,
    ProbeRecipe,
    Section,
    Whole,
)
from headstart.recipe.tree import apply_overrides, dotted

_SIZES = '--set "finetune.schedule=[{epochs: 3, size: 96}]"'
ELSEWHERE = {
    **dict.fromkeys(("epochs", "imgsz", "image_size", "img_size", "size"), _SIZES),
    **dict.fromkeys(("batch_size", "batch"), "--set finetune.batch_size=32"),
    **dict.fromkeys(("lr", "lr0", "learning_rate"), "--set finetune.lr=1e-4"),
    **dict.fromkeys(("model", "arch", "architecture", "network"), "--backbone tf_efficientnet_lite0.in1k"),
    "weight_decay": "--set finetune.weight_decay=0.05",
}
"""What other tools call settings of training, and how they are given here, as an example."""


class Recipe(Section):
    """A training run: data -> probe -> fine-tuning -> evaluation."""

    description: Annotated[str, Field(max_length=10_000)] = ""
    """One sentence for people."""
    budget: Budget | None = None
    """Time for the whole run, e.g. ``5min``. Where it is given, every key that the recipe leaves out is chosen to suit
    the images, this machine and that time before training begins; the recipe saved with the run holds what was chosen,
    and no budget. Empty: the keys left out have their defaults."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Random seed of the split, the order of the images, the augmentation and the new weights."""
    data: DataRecipe = DataRecipe()
    """Which images."""
    backbone: Annotated[str, Field(max_length=200)] = "tf_efficientnet_lite0.in1k"
    """A name that ``headstart backbones`` lists, or any other timm model."""
    weights: Annotated[str, Field(max_length=4096)] = "auto"
    """``auto`` (the backbone's own source), ``none`` (from scratch), or the path of a weights file."""
    preprocessing: Literal["weights", "unit"] = "weights"
    """``weights``: pixels are normalized as in pretraining. ``unit``: they are only divided by 255, and their channels
    stay RGB, whatever the weights want; a common mistake, available for comparison. Travels with the classifier, so
    that predictions are made the same way."""
    interpolation: Literal["weights", "bilinear", "bicubic"] = "weights"
    """Kernel that resizes images to the network's input; ``weights``: the one of pretraining. Travels with the
    classifier as well."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an image that is not square becomes one: ``crop`` keeps the central square, ``pad`` adds borders, ``stretch``
    changes the proportions. Travels with the classifier as well."""
    head: HeadRecipe = HeadRecipe()
    """New layers on top of the backbone."""
    probe: ProbeRecipe | None = ProbeRecipe()
    """Training of the head alone; empty to skip."""
    finetune: FinetuneRecipe | None = FinetuneRecipe()
    """Training of backbone and head together; empty to skip."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """How the finished classifier looks at an image."""
    hardware: HardwareRecipe = HardwareRecipe()
    """How the arithmetic is done."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "Recipe":
        if self.probe is None and self.finetune is None:
            raise ValueError("probe and finetune are both empty, so nothing would be trained; give at least one")
        if self.probe and self.probe.solver == "lbfgs" and self.head.hidden:
            raise ValueError("probe.solver 'lbfgs' needs a linear head; set probe.solver=adam or head.hidden=[]")
        if self.head.dropout and self.finetune is None and self.probe and self.probe.solver == "lbfgs":
            raise ValueError(
                "head.dropout would have no effect: it acts in steps of training, and probe.solver 'lbfgs' takes none; "
                "set head.dropout=0, choose probe.solver=adam, or give finetune"
            )
        if self.weights == "none" and self.finetune is None:
            raise ValueError("weights 'none' with finetune empty would train a head on a random backbone")
        if self.finetune:
            _check_augmentation(self.finetune)
            if self.finetune.sampling == "balanced" == self.finetune.class_weights:
                raise ValueError(
                    "finetune.sampling and finetune.class_weights are both 'balanced', which would make rare classes "
                    "count twice; keep one of them"
                )
        return self

    @property
    def input_size(self) -> int:
        """Image size in pixels at which the finished classifier works."""
        if self.evaluation.size:
            return self.evaluation.size
        if self.finetune:
            return self.finetune.schedule[-1].size
        assert self.probe is not None
        return self.probe.size

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """All image sizes in pixels at which the network is run, in ascending order."""
        sizes = {self.input_size}
        if self.probe:
            sizes.add(self.probe.size)
        if self.finetune:
            sizes |= {step.size for step in self.finetune.schedule}
        return tuple(sorted(sizes))


def _check_augmentation(finetune: FinetuneRecipe) -> None:
    augment = finetune.augment
    for name, share in augment.stronger.items():
        if share <= augment.trivial:
            raise ValueError(
                f"finetune.augment.stronger gives '{cut(name)}' {share}, which is not more than the "
                f"{augment.trivial} of finetune.augment.trivial for all; raise the one or lower the other"
            )
    if augment.views and (augment.mixup or augment.cutmix):
        raise ValueError(
            "finetune.augment.views keeps the output of frozen stages for each image, but mixup and cutmix mix the "
            "images first, differently in every batch; set views to 0, or mixup and cutmix to 0"
        )
    if augment.views and not finetune.freeze.stages:
        raise ValueError(
            "finetune.augment.views keeps the output of frozen stages for each image, but finetune.freeze.stages is "
            "0; freeze 1 stage or more, or set views to 0"
        )


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with headstart, sorted."""
    return sorted(
        f.name.removesuffix(".yaml") for f in files("headstart.recipes").iterdir() if f.name.endswith(".yaml")
    )


def load_recipe(name: str | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe, apply overrides and check it.

    Relative paths of data and weights in a recipe file count from the file's folder, where something is there; all
    others stay as they are, for the caller to take from the working folder.

    Args:
        name: A shipped recipe's name, the path of a YAML file, or what such a file would hold.
        overrides: ``key=value`` strings with dotted keys, values being YAML; or dotted keys with their values.

    Returns:
        The checked recipe.

    Raises:
        RecipeError: An unknown recipe, or any number of wrong keys and values, all named.
    """
    tree = deepcopy(dict(name)) if isinstance(name, Mapping) else _read(name)
    apply_overrides(tree, overrides if isinstance(overrides, Mapping) else read_overrides(overrides))
    return parse_recipe(tree, "given in Python" if isinstance(name, Mapping) else name)


def parse_recipe(tree: dict[str, Any], origin: str) -> Recipe:
    """Check a recipe given as nested dicts; ``origin`` names it in errors.

    Raises:
        RecipeError: Lists the problems with their keys, what is allowed and the nearest key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        told = [f"Recipe '{cut(origin)}' can't be used:", *explain(error, Recipe, unknown=_otherwise)]
        raise RecipeError("\n  - ".join(told)) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def differences(one: Recipe, other: Recipe) -> str:
    """Return which keys two recipes differ in, and how, for an error message; empty when they are equal."""
    before, after = (dotted(recipe.model_dump(mode="json")) for recipe in (one, other))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return ", ".join(f"{key} is {short(before.get(key))} there and {short(after.get(key))} here" for key in keys)


def _otherwise(section: str, key: str) -> str:
    return f" It is given like this: {ELSEWHERE[key]}." if section in ("", "finetune") and key in ELSEWHERE else ""


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    shipped = shipped_recipes()
    if path.suffix in {".yaml", ".yml"}:
        tree = read_yaml_file(path, f"Recipe {cut(name)}", absent=f"Shipped recipes: {', '.join(shipped)}.")
        return _with_paths_from(path.absolute().parent, tree)
    if name in shipped:
        return read_yaml(files("headstart.recipes").joinpath(f"{name}.yaml").read_bytes(), f"Recipe {name}")
    raise RecipeError(
        f"Unknown recipe '{cut(name)}'. Shipped recipes: {', '.join(shipped)}; or give the path of a .yaml file."
        f"{nearest(cut(name), shipped)}"
    )


def _with_paths_from(folder: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe file's content with absolute paths for the data and weights that lie beside it."""
    data, weights = tree.get("data"), tree.get("weights")
    # A word without a slash is the name of a data set.
    if isinstance(data, dict) and isinstance(name := data.get("name"), str) and ("/" in name or os.sep in name):
        data = data | {"name": _beside(folder, name)}
        tree = tree | {"data": data}
    if isinstance(data, dict) and isinstance(labels := data.get("labels_from"), str):
        tree = tree | {"data": data | {"labels_from": _beside(folder, labels)}}
    if isinstance(weights, str) and weights not in ("auto", "none"):
        tree = tree | {"weights": _beside(folder, weights)}
    return tree


def _beside(folder: Path, name: str) -> str:
    place = folder / name
    try:
        return str(place) if not name.startswith("~") and place.exists() else name
    except (OSError, ValueError):  # too long, or with characters that no path has
        return name
