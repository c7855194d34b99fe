"""What users write as YAML: recipes, study plans, the recipes of runs, and single values on the command line.

The one reader of YAML, which costs no more than what it reads is worth: a file that is too large, nested too deeply or
multiplied by aliases is refused before it is expanded. Keys are words as they were typed, so that classes may be called
``0`` or ``yes``, and none may come twice. There are no dates.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import RecipeError, cut
from headstart.files import nearest_path

MAX_BYTES = 1_000_000
"""Largest size of a file: a thousand class names with their weights take 30 KB."""
MAX_VALUES = 50_000
"""Most values and keys, with those of each alias counted where it is used."""
_MAX_DEPTH = 30
_MAX_DIGITS = 40
"""Digits of the longest whole number that is read."""
_TAG = "tag:yaml.org,2002:"
_POWER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d{1,3}")
_TOO_MUCH = f"more than {MAX_VALUES:,} values, those of aliases included, or more than {_MAX_DEPTH} levels"


def read_yaml_file(path: Path, what: str, *, absent: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    ``what`` names it in errors, which end with ``absent`` where there is no such file.

    Raises:
        RecipeError: It can't be read, is not valid YAML in UTF-8, or holds something else.
    """
    try:
        if path.is_dir():
            raise RecipeError(f"{what} is a folder. Give the path of a YAML file.")
        with path.open("rb") as file:
            # A device may have no size and no end.
            content = file.read(MAX_BYTES + 1)
        size = max(path.stat().st_size, len(content))
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"{what} can't be read: there is no such file.{nearest_path(path)} {absent}") from None
    except PermissionError:
        raise RecipeError(f"{what} can't be read: you have no permission. Ask its owner for that.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{what} can't be read: {reason}. {absent}") from None
    if size > MAX_BYTES:
        raise RecipeError(f"{what} has {size / 1e6:,.0f} MB; at most {MAX_BYTES / 1e6:,.0f} MB are read.")
    return read_yaml(content, what)


def read_yaml(content: bytes | str, what: str) -> dict[str, Any]:
    """Read YAML that holds a mapping; ``what`` names it in errors.

    Raises:
        RecipeError: It is not valid YAML in UTF-8, or holds something else.
    """
    tree = _load(content, what)
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
        key, told = key.strip(), f"--set {cut(text)}"
        if not equals:
            raise RecipeError(f"{told}: expected key=value, e.g. --set finetune.lr=1e-4.")
        if key in overrides:
            raise RecipeError(f"{told}: {cut(key)} is given twice. Keep one of the two.")
        overrides[key] = _single_value(_load(value, f"{told}: the value"))
    return overrides


class _Refused(Exception):  # noqa: N818 - becomes a RecipeError that names the file
    """What is wrong, and in which line."""

    def __init__(self, reason: str, mark: yaml.Mark) -> None:
        super().__init__(f"line {mark.line + 1}: {reason}")


class _Composer(yaml.SafeLoader):
    """PyYAML as far as the tree of nodes, whose depth is bounded; no scalar is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - a name of the base class
        first: [(tag, pattern) for tag, pattern in found if tag != f"{_TAG}timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, content: str) -> None:
        super().__init__(content)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        if self._depth > _MAX_DEPTH or self._count > MAX_VALUES:
            raise _Refused(_TOO_MUCH, self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _load(content: bytes | str, what: str) -> Any:
    """Return the one document in ``content`` as dicts, lists and scalars."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        node = _Composer(text).get_single_node()
        return None if node is None else _Builder().value(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{what} is not valid YAML: {cut(str(error), 500)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} is not text in UTF-8: {error.reason} at byte {error.start}.") from None
    except _Refused as error:
        raise RecipeError(f"{what} can't be used: {error}.") from None


class _Builder:
    """Plain data from a tree of nodes; an alias is visited, and counted, wherever it is used."""

    def __init__(self) -> None:
        self._count = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, depth: int = 1) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or depth > _MAX_DEPTH:
            raise _Refused(_TOO_MUCH, node.start_mark)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, depth)
        raise _Refused(f"values of the kind {cut(node.tag)} are not allowed", node.start_mark)

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        build = {
            "null": self._scalars.construct_yaml_null,
            "bool": self._scalars.construct_yaml_bool,
            "int": self._scalars.construct_yaml_int,
            "float": self._scalars.construct_yaml_float,
        }.get(kind)
        if kind in ("str", "value", "merge"):
            return str(node.value)
        if build is None:
            raise _Refused(f"values of the kind {cut(node.tag)} are not allowed", node.start_mark)
        if kind == "int" and len(node.value) > _MAX_DIGITS:
            raise _Refused(f"a number of {len(node.value):,} digits", node.start_mark)
        try:
            return build(node)
        except (ValueError, LookupError, OverflowError):
            raise _Refused(f"'{cut(node.value)}' is not of the kind {cut(node.tag)}", node.start_mark) from None

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused("a key must be a single word", key_node.start_mark)
            if key_node.tag == f"{_TAG}merge":
                found = self.value(value_node, depth + 1)
                for mapping in found if isinstance(found, list) else [found]:
                    if not isinstance(mapping, dict):
                        raise _Refused("<< must be followed by a mapping, or a list of mappings", value_node.start_mark)
                    merged = mapping | merged
            elif key_node.value in own:
                raise _Refused(
                    f"the key '{cut(key_node.value)}' is given twice; keep one of the two", key_node.start_mark
                )
            else:
                own[key_node.value] = self.value(value_node, depth + 1)
        return merged | own


def _single_value(value: Any) -> Any:
    # YAML 1.1 reads 1e-4, without a dot, as a string.
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value
