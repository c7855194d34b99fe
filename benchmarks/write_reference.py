"""Write the tables of docs/reference.md from the command line's own options and the recipe's own keys.

python benchmarks/write_reference.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from headstart.cli.app import command_line
from headstart.recipe.schema import Recipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"


def commands() -> str:
    """Return every command with its arguments and options, in the order of ``headstart --help``."""
    group, parts = command_line(), []
    with group.make_context("headstart", [], resilient_parsing=True) as top:
        for name, command in group.commands.items():
            with command.make_context(name, [], parent=top, resilient_parsing=True) as context:
                records = [record for option in command.params if (record := option.get_help_record(context))]
                usage = " ".join(["headstart", name, *command.collect_usage_pieces(context)])
            rows = [("option", "what"), *((f"`{option}`", what) for option, what in records)]
            parts.append(f"### `headstart {name}`\n\n{prose(command.help)}\n\n    {usage}\n\n{table(rows)}")
    return "\n\n".join(parts)


def recipe_keys() -> str:
    """Return every key of a recipe with its kind, its default and its meaning, section by section."""
    parts = []
    for prefix, section in sections(Recipe, ""):
        rows = [("key", "values", "default", "what")]
        for name, field in section.model_fields.items():
            if section_of(field.annotation) is None:
                default = "required" if field.is_required() else f"`{shown(field.default)}`"
                rows.append((f"`{prefix}{name}`", kind_of(field.annotation), default, field.description or ""))
        title = f"### `{prefix.rstrip('.')}`" if prefix else "### At the top"
        parts.append(f"{title}\n\n{prose(section.__doc__)}\n\n{table(rows)}")
    return "\n\n".join(parts)


def sections(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a section and all that it holds, each with the prefix of its keys."""
    yield prefix, section
    for name, field in section.model_fields.items():
        if inner := section_of(field.annotation):
            yield from sections(inner, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a key holds, or None for a plain value or a list."""
    found = [kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found[0] if found else None


def alternatives(annotation: Any) -> list[Any]:
    """Return the kinds of value that an annotation allows, without what restricts them further."""
    while get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def kind_of(annotation: Any) -> str:
    """Return in words which values a key takes."""
    names = {int: "whole number", float: "number", str: "text", bool: "true, false", NoneType: "empty"}
    words = []
    for kind in alternatives(annotation):
        if get_origin(kind) is Literal:
            words += [f"`{value}`" for value in get_args(kind)]
        elif get_origin(kind) in (list, tuple):
            words.append("list")
        elif get_origin(kind) is dict:
            words.append("number by class")
        else:
            words.append(names.get(kind, str(kind)))
    return ", ".join(dict.fromkeys(words))


def shown(value: Any) -> str:
    """Return a default as YAML would show it."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, BaseModel):
        return f"{{{', '.join(f'{key}: {shown(inner)}' for key, inner in value)}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def prose(text: str | None) -> str:
    """Return help or a docstring as Markdown: the text that a command shows, on one line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", (text or "").partition("\f")[0].strip())
    return "\n\n".join(" ".join(paragraph.split()).replace("``", "`") for paragraph in paragraphs)


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows, the first being the header, as a Markdown table."""
    lines = ["| " + " | ".join(prose(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def page_with_tables(page: str) -> str:
    """Return docs/reference.md with fresh tables between its marks."""
    for mark, text in (("commands", commands()), ("recipe", recipe_keys())):
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        head, _, rest = page.partition(begin)
        _, found, tail = rest.partition(end)
        assert found, f"docs/reference.md has no {begin} ... {end}"
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
