"""The argument and the options that say which images a command reads: the same words wherever labelled images go in."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

DATA_HELP = "A folder of images, a table of them, hf://owner/name, or cifar10."
ImageColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the images.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the labels.")]
GroupColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the groups.")]
GroupFrom = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Finds an image's group in its path, in parentheses.")
]
LabelsFrom = Annotated[
    str | None, typer.Option(metavar="CSV", help="Corrected labels: file_name,label; the label drop leaves out.")
]
ValFraction = Annotated[float | None, typer.Option(help="Share of the images held out for validation.")]
TestFraction = Annotated[float | None, typer.Option(help="Share of the images held out for the test split.")]
_ON_BAD = "What to do about images that can't be read"
FailOnBad = Annotated[str | None, typer.Option("--on-bad", metavar="fail|skip", help=f"{_ON_BAD}; fail by default.")]
SkipOnBad = Annotated[str | None, typer.Option("--on-bad", metavar="fail|skip", help=f"{_ON_BAD}; skip by default.")]


def as_typed(options: Iterable[str]) -> list[str]:
    """Return names of parameters as the options that stand for them."""
    return [f"--{name.replace('_', '-')}" for name in options]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def as_overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options about data that were given, by the keys of a recipe that they stand for."""
    return {f"data.{name}": value for name, value in given(options).items()}
