"""``headstart backbones``: parsing, and one call."""

from dataclasses import asdict
from typing import Annotated

import typer

from headstart.cli.app import Answer, Debug, Json
from headstart.errors import InputError
from headstart.terminal import table


def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern as in a shell.", show_default=False),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List backbones: where their weights come from, and whether these are at hand."""
    from headstart.models.catalogue import list_backbones

    found = list_backbones(pattern)
    if not found:
        raise InputError(
            f"No backbone matches '{pattern}'. Give a part of a name, or a pattern as in a shell, e.g. 'resnet50*'; "
            "`headstart backbones` without a pattern lists the ones that are at hand."
        )
    rows = [asdict(info) for info in found]
    return Answer({"backbones": rows}, table(rows))
