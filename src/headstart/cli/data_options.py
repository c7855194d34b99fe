"""The argument and the options that say which images a command reads: the same words wherever labelled images go in."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

DATA_HELP = "A folder that holds a folder of images for each class, a table of images, hf://owner/name, or cifar10."
ImageColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the images; file_name, path, image or the like by default."),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of a table that holds the labels; label, class or the like by default.")
]
GroupColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the groups; group by default.")]
GroupFrom = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Regular expression whose parentheses find an image's group in its path, e.g. '(patient-[0-9]+)'. A group "
        "stays in one split.",
    ),
]
LabelsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="CSV",
        help="Corrected labels, in the columns file_name and label; the label drop leaves an image out.",
    ),
]
ValFraction = Annotated[
    float | None, typer.Option(help="Share of the training images held out for validation; 0.1 by default.")
]
TestFraction = Annotated[
    float | None, typer.Option(help="Share of the images held out for the test split; 0.2 by default.")
]
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
