"""What is wrong with a recipe, in the words of the YAML that its author wrote."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from headstart.errors import nearest
from headstart.recipe.read import cut, short

_SHOWN = 20
"""Most problems that are listed."""
_TAGS = ("<word>", "<by class>")
"""How ``sections.ClassWeights`` tells its two forms apart; no words of the recipe's author."""
_SHAPES = dict.fromkeys(("tuple_type", "list_type"), "input should be a list, e.g. [512, 256]") | dict.fromkeys(
    ("model_type", "dict_type"), "input should be a mapping of keys to values"
)
"""By pydantic's kind of error, what replaces words of Python's."""

_SIZES = '--set "finetune.schedule=[{epochs: 3, size: 96}]"'
ELSEWHERE = {
    **dict.fromkeys(("epochs", "imgsz", "image_size", "img_size", "size"), _SIZES),
    **dict.fromkeys(("batch_size", "batch"), "--set finetune.batch_size=32"),
    **dict.fromkeys(("lr", "lr0", "learning_rate"), "--set finetune.lr=1e-4"),
    **dict.fromkeys(("model", "arch", "architecture", "network"), "--backbone tf_efficientnet_lite0.in1k"),
    "weight_decay": "--set finetune.weight_decay=0.05",
}
"""What other tools call settings of training, and how they are given here, as an example."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the problems that pydantic found in ``model``, one line each."""
    problems = error.errors(include_url=False)
    lines = [f"  - {_line(problem, model)}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  - and {len(problems) - _SHOWN:,} more")
    return "\n".join(lines)


def _line(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(cut(str(part), 60) for part in problem["loc"] if part not in _TAGS)
    if problem["type"] == "extra_forbidden":
        section, known = _section(problem["loc"], model)
        key = cut(str(problem["loc"][-1]), 60)
        hint = nearest(key, known)
        if section in ("a recipe", "finetune") and key in ELSEWHERE and not hint:
            hint = f" It is given like this: {ELSEWHERE[key]}."
        return f"{where}: unknown key.{hint} Allowed in {section}: {', '.join(known)}."
    message = _SHAPES.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    # A percentage where a share is wanted.
    value, limit = problem["input"], problem.get("ctx", {}).get("lt")
    meant = limit == 1 and isinstance(value, int | float) and 1 < value < 100
    hint = f" Did you mean {value / 100:g}?" if meant else ""
    return f"{where}: {message[0].lower()}{message[1:]} (got {short(value)}).{hint}"


def _section(location: Iterable[Any], model: type[BaseModel]) -> tuple[str, list[str]]:
    """Return the name and the fields of the section that holds the last part of ``location``."""
    *parents, _ = location
    for part in parents:
        if part in model.model_fields:
            model = _inner(model.model_fields[str(part)].annotation) or model
    return (".".join(str(part) for part in parents) or "a recipe"), list(model.model_fields)


def _inner(annotation: Any) -> type[BaseModel] | None:
    """Return the section in the type of a key: the type itself, one of a union, or that of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _inner(part))), None)
