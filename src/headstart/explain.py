"""What is wrong with values that pydantic refused, told in the words of whoever wrote them; the only place for that."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from headstart.errors import cut, nearest, short

_TAGS = ("<word>", "<by class>")
"""How ``recipe.sections.ClassWeights`` tells its two forms apart; no words of the author."""
_SHAPES = dict.fromkeys(("tuple_type", "list_type"), "input should be a list, e.g. [1, 2]") | dict.fromkeys(
    ("model_type", "dict_type"), "input should be a mapping of keys to values"
)
"""By pydantic's kind of error, what replaces words of Python's."""


class _Refusal(Protocol):
    def errors(self) -> Sequence[Any]: ...


def explain(
    error: _Refusal,
    model: type[BaseModel] | None = None,
    content: object = None,
    *,
    most: int = 20,
    whole: str = "",
    unknown: Callable[[str, str], str] = lambda _section, _key: "",
) -> list[str]:
    """Return one line for each problem, without a full stop, and one for those that are left out.

    Args:
        error: What pydantic raised.
        model: What was expected, whose fields are named where a key is unknown.
        content: What was given, for a model in which the descriptions of fields say what is allowed.
        most: Largest number of problems that are named.
        whole: What to call that which is given, where a problem lies in no part of it.
        unknown: From section and name of a key that is like no other: a sentence about it.
    """
    problems, lines = error.errors(), dict[str, None]()
    for number, problem in enumerate(problems):
        if len(lines) == most:
            return [*lines, f"and {len(problems) - number:,} more"]
        if problem["loc"]:
            lines[_line(problem, model, content, unknown)] = None
        else:
            lines[f"{whole}{': ' * bool(whole)}{_message(problem)}"] = None
    return list(lines)


def _line(problem: Any, model: type[BaseModel] | None, content: Any, unknown: Callable[[str, str], str]) -> str:
    location = [part for part in problem["loc"] if part not in _TAGS]
    where, wanted, described, fields = _dotted(location), None, 0, {}
    for depth, part in enumerate(location, start=1):
        fields = model.model_fields if model else {}
        if field := fields.get(part):
            if field.description and content is not None:
                wanted, described = field.description, depth
            model = _section(field.annotation) or model
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "extra_forbidden":
        section, key = _dotted(location[:-1]), cut(str(location[-1]), 60)
        hint = nearest(key, fields) or unknown(section, key)
        return f"{where}: unknown key.{hint} Allowed{' in ' * bool(section)}{section}: {', '.join(fields)}"
    if wanted:
        for part in location[:described]:
            content = content[part]
        return f"{_dotted(location[:described])} must be {wanted}, but is {short(content)}"
    # A percentage where a share is wanted.
    value, limit = problem["input"], problem.get("ctx", {}).get("lt")
    meant = limit == 1 and isinstance(value, int | float) and 1 < value < 100
    hint = f". Did you mean {value / 100:g}?" if meant else ""
    return f"{where}: {_message(problem)} (got {short(value)}){hint}"


def _message(problem: Any) -> str:
    message = _SHAPES.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _dotted(location: Sequence[Any]) -> str:
    return ".".join(cut(str(part), 60) for part in location)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section in the type of a key: the type itself, one of a union, or that of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section(part))), None)
