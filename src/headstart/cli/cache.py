"""``headstart cache``: parsing, and one call."""

from typing import Annotated

import typer

from headstart.cli.app import Answer, Debug, Json
from headstart.home import KINDS
from headstart.terminal import table


def cache(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help=f"{', '.join(KINDS)}; all by default.",
            show_default=False,
        ),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove it, except for what a running process is working on.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Answer:
    """List what the cache folder holds, or clear it. Everything in it is made or fetched again when it is needed."""
    from headstart.workflows.cache import cache_contents

    found = cache_contents(kind, clear=clear)
    rows = [
        {
            "kind": held.kind,
            "entries": held.entries,
            "MB": round(held.bytes / 1e6, 1),
            "last used": (held.last_used or "").replace("T", " ").removesuffix("+00:00"),
            "what": KINDS[held.kind],
        }
        for held in found.kinds
    ]
    lines = [f"Cache folder: {found.folder}", table(rows)]
    if clear:
        removed, in_use = sum(held.removed for held in found.kinds), sum(held.in_use for held in found.kinds)
        lines.append(f"Removed {removed:,}, kept {in_use:,} in use by a running process.")
    return Answer(found.to_dict(), "\n".join(lines))
