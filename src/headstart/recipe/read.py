"""What users write as YAML: files, and single values on the command line."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import yaml

from headstart.errors import RecipeError


def read_yaml(content: bytes, what: str) -> dict[str, Any]:
    """Read the content of a YAML file that holds a mapping; ``what`` names the file in errors.

    Raises:
        RecipeError: It is not valid YAML in UTF-8, or holds something else.
    """
    try:
        tree = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise RecipeError(f"{what} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        kind = "empty" if tree is None else f"a {type(tree).__name__}"
        raise RecipeError(f"{what} must be a mapping of keys to values, but is {kind}.")
    return tree


def read_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` strings with dotted keys, values being YAML.

    Raises:
        RecipeError: A string is not of that form, or a key is given twice.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise RecipeError(f"--set {text}: expected key=value, e.g. --set finetune.lr=1e-4.")
        if key in overrides:
            raise RecipeError(f"--set {text}: {key} is given twice. Keep one of the two.")
        overrides[key] = _yaml_value(value, text)
    return overrides


def apply_overrides(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Put values at dotted keys into nested dicts, in place.

    Raises:
        RecipeError: A dotted key leads through a single value.
    """
    for key, value in overrides.items():
        _put(tree, key, deepcopy(value))


def _yaml_value(value: str, text: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {text}: the value is not valid YAML.") from None
    # YAML 1.1 reads 1e-4, without a dot, as a string.
    if isinstance(parsed, str):
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.get(parent)
        if child is None:
            child = tree[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(
                f"{key} can't be set: '{parent}' is {child!r}, where a mapping with further keys belongs."
            )
        tree = child
    tree[last] = value
