"""The recipe that a call asks for: resolved in one place, for Python and the command line."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from headstart.data.dataset import KNOWN, check_there
from headstart.data.sources.arrays import is_store
from headstart.errors import InputError, RunError
from headstart.files import expanded, parse_json, read_bounded
from headstart.recipe.schema import Recipe, load_recipe, parse_recipe
from headstart.recipe.sections import DataRecipe
from headstart.recipe.tree import apply_overrides
from headstart.report.private import without_folders
from headstart.terminal import visible

_LARGEST_FIGURES = 5 * 10**8
"""Bytes of a file of figures that are read."""


def resolve_recipe(
    data: str | Path | Recipe,
    recipe: str | Path | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Recipe:
    """Return the checked recipe that a call asks for, with absolute paths.

    ``given`` are the dotted keys that have arguments of their own, with their values.

    Raises:
        InputError: A key is given twice, or there are two recipes.
        RecipeError: The recipe is unknown, or any number of keys and values are wrong; all of them are named.
    """
    given = dict(given)
    if isinstance(data, Recipe):
        if recipe is not None:
            raise InputError("Two recipes were given. Name the data set first, or give the one Recipe alone.")
        base: str | Mapping[str, Any] = data.model_dump(mode="json", exclude_unset=True)
    else:
        given["data.name"] = str(data)
        default = default_recipe(data, budget="budget" in given or "budget" in overrides)
        base = default if recipe is None else recipe if isinstance(recipe, Mapping) else str(recipe)
    if twice := sorted(given.keys() & overrides.keys()):
        raise InputError(
            f"{', '.join(twice)} is given twice: as an argument of its own and among the overrides (--set). Keep one."
        )
    return absolute_paths(load_recipe(base, {**overrides, **given}))


def default_recipe(data: str | Path, *, budget: bool) -> str:
    """Return the name of the recipe that is used where none is given, with a budget or without."""
    return "quickstart" if str(data) in KNOWN and not budget else "auto"


def data_section(
    data: str | Path, overrides: Mapping[str, Any], *, unused: Collection[str], seed: int = 0
) -> DataRecipe:
    """Return what a call says of its data as a recipe's section, with absolute paths.

    ``unused`` are keys of the section that would change nothing, as those of other sections.

    Raises:
        InputError: A key would change nothing, or there is no such data set.
        RecipeError: A key is unknown, or a value is wrong.
    """
    useless = {f"data.{key}" for key in (*unused, "name")}
    if ignored := sorted(key for key in overrides if key in useless or not key.startswith("data.")):
        raise InputError(
            f"{', '.join(ignored)} would change nothing among these overrides, which say how images are read, as "
            "data.labels_from does. Leave it out, or give it by an argument of its own."
        )
    tree: dict[str, Any] = {"data": {"name": str(data)}, "seed": seed}
    apply_overrides(tree, overrides)
    section = absolute_paths(parse_recipe(tree, "given as options")).data
    check_there(section.name)
    return section


def absolute_paths(recipe: Recipe) -> Recipe:
    """Return a recipe whose paths of data and weights hold in any working folder."""
    weights = recipe.weights if recipe.weights in ("auto", "none") else str(absolute_path(recipe.weights))
    labels = recipe.data.labels_from and str(absolute_path(recipe.data.labels_from))
    data = recipe.data.model_copy(update={"name": absolute_data(recipe.data.name), "labels_from": labels})
    return recipe.model_copy(update={"data": data, "weights": weights})


def portable_paths(recipe: Recipe) -> Recipe:
    """Return a recipe for others to read: of the folders of this machine only the last names are left."""
    paths = {"name": recipe.data.name, "labels_from": recipe.data.labels_from, "weights": recipe.weights}
    told = without_folders(paths)
    data = recipe.data.model_copy(update={key: told[key] for key in ("name", "labels_from")})
    return recipe.model_copy(update={"data": data, "weights": told["weights"]})


def absolute_data(data: str | Path) -> str:
    """Return the name of a known data set as it is, and a path so that it holds in any working folder."""
    path = expanded(data)
    # What can't be a path is refused where the data are loaded.
    return str(path.resolve()) if str(data) not in KNOWN and os.path.exists(path) else str(data)  # noqa: PTH110


def check_outside(out: Path, data: str) -> None:
    """Raise RunError where results would lie in a folder of images, and would be taken for images later."""
    if data in KNOWN or not os.path.isdir(data) or is_store(Path(data)):  # noqa: PTH112 (a name may be no path at all)
        return
    if out.resolve().is_relative_to(Path(data).resolve()):
        raise RunError(
            f"{out} lies in {data}, whose folders are read as classes. Name a folder outside of it with --out."
        )


def check_same_data(figures: Path, data: str) -> None:
    """Raise RunError where the figures in a folder that nobody named are of other data, and would be replaced.

    Figures tell by ``data.given`` what they are of; those of earlier versions do not, and are replaced.
    """
    try:
        before = parse_json(read_bounded(figures, at_most=_LARGEST_FIGURES))["data"]["given"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if before != absolute_data(data):
        raise RunError(
            f"{figures.parent} holds what was found in other data, {visible(str(before))}, which would be lost. Name "
            "another folder with --out, or remove that one."
        )


def absolute_path(path: Path | str | None) -> Path | None:
    """Return a path so that it holds in any working folder; None stays None.

    Raises:
        InputError: It can't be a path, or is a link that leads back to itself.
    """
    try:
        return None if path is None else Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"'{visible(str(path))[:200]}' is no path that can be followed ({error}). Give another."
        ) from None
