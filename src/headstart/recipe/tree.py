"""Nested mappings of keys to values, as recipes are before they are checked, and their dotted keys."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from headstart.errors import RecipeError, cut, short

Tree = dict[str, Any]


def apply_overrides(tree: Tree, overrides: Mapping[str, Any]) -> None:
    """Put values at dotted keys into nested dicts, in place.

    Raises:
        RecipeError: A dotted key leads through a single value.
    """
    for key, value in overrides.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            child = place.get(parent)
            if child is None:
                child = place[parent] = {}
            if not isinstance(child, dict):
                raise RecipeError(
                    f"{cut(key)} can't be set: '{cut(parent)}' is {short(child)}, not a mapping of keys to values."
                )
            place = child
        place[last] = deepcopy(value)


def merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    """Return ``tree`` with ``change`` put over it, mapping into mapping; neither is altered."""
    result = dict(tree)
    for key, value in change.items():
        inner = result.get(key)
        if isinstance(value, Mapping):
            result[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def gives(tree: Any, key: str) -> bool:
    """Return whether a tree holds something at a dotted key, at one above it or at one below it."""
    for part in key.split("."):
        if not isinstance(tree, Mapping):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return True


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Return the values of a tree by their dotted keys; an empty mapping is a value."""
    flat: Tree = {}
    for key, value in tree.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
